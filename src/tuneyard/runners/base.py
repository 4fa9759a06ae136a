"""The runner: what every target does with runs. The verbs above it never depend on which target it is.

`LocalRunner` (`local/`) is the one on this machine, `KubernetesRunner` (`kubernetes/`) the one of a cluster; both take
the same `Launch`. What differs between targets before a launch (the store, the values a target sets, what can be
checked from here) is a method of the runner too, so that planning is the same code for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tuneyard.runners.info import RunInfo, RunKey, Verb

if TYPE_CHECKING:
    from tuneyard.cluster import Finding
    from tuneyard.estimate import Estimate, Verdict
    from tuneyard.values import DeliverValues, FinetuneValues, InferenceValues

    VerbValues = DeliverValues | FinetuneValues | InferenceValues

STOP_SECONDS = 60.0
"""How long `stop` waits by default: a process that receives SIGTERM saves and publishes first."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a runner needs to start a run.

    Attributes:
        key: The verb and the name.
        values: The resolved values; the process reads nothing else.
        store: The store's URL.
        experiment: Where in the store a finetuning run publishes.
        host: The address a served model listens on.
        port: The port it listens on; None takes the first free one from 8080.
    """

    key: RunKey
    values: VerbValues
    store: str
    experiment: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None

    @property
    def values_json(self) -> bytes:
        """The values as the canonical JSON that the run's process reads."""
        from tuneyard.values import canonical_json

        return canonical_json(self.values)

    @property
    def values_sha256(self) -> str:
        """The hash of the public part of the values."""
        from tuneyard.values import values_sha256

        return values_sha256(self.values)

    @property
    def on_accelerators(self) -> bool:
        """Whether the values request accelerators."""
        return bool(getattr(self.values, "gpuResource", ""))


@dataclass(frozen=True, slots=True)
class Draft:
    """A launch before its target has chosen the store and what else it decides.

    Attributes:
        key: The verb and the name.
        values: The resolved values.
        store: The store that the user named; None takes the target's.
        fallback: The store to prefer over the target's default.
        experiment: Where the run publishes, or where what it serves was published.
        port: The port that the user named.
    """

    key: RunKey
    values: VerbValues
    store: str | None = None
    fallback: str | None = None
    experiment: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """The published model of a finetuning run, as the source of a server's values.

    Attributes:
        name: The run's name.
        experiment: Where it published.
        model: The key of its model.
        store: The store it published to; None where the target's values name it.
        below: Values that the server takes over from the run, below the user's files.
        sets: `--set` texts above the user's files and below the user's own.
    """

    name: str
    experiment: str
    model: str
    store: str | None = None
    below: Mapping[str, Any] = field(default_factory=dict[str, Any])
    sets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Reached:
    """A served model as this machine reaches it.

    Attributes:
        url: The endpoint (`http://…/v1`).
        api_key: The key for requests; empty if it needs none.
    """

    url: str
    api_key: str = field(default="", repr=False)


class Runner(Protocol):
    """Starts and manages runs. Every method may be called from any process, also after a reboot."""

    @property
    def poll_seconds(self) -> float:
        """How long to wait between two polls of a run."""
        ...

    @property
    def options(self) -> str:
        """The options that select this runner on a command line (` --on kubernetes`); empty for this machine."""
        ...

    @property
    def own_store(self) -> str | None:
        """The URL of the store that runs use where nothing names one; None where the values have to."""
        ...

    def defaults(self, verb: Verb) -> Mapping[str, Any]:
        """Return the values that this target sets below the user's files.

        Args:
            verb: Whose values.
        """
        ...

    def prepare(self, draft: Draft) -> tuple[Launch, tuple[str, ...]]:
        """Complete a draft, without starting or writing anything.

        Args:
            draft: The launch so far.

        Returns:
            The launch, and notices about the values.

        Raises:
            UsageError: If this target does not support an option.
            InvalidValuesError: If the store is neither a URL nor clearly a path.
        """
        ...

    def check_inputs(self, launch: Launch) -> None:
        """Check that what a finetuning run reads has been delivered, where this machine reaches the store.

        Raises:
            NotFoundError: If the base model or a dataset has not been delivered.
        """
        ...

    def find_trained(self, run: str, *, merged: bool, store: str | None) -> Trained:
        """Find the model that a finetuning run has published.

        Args:
            run: The run's name.
            merged: Whether its merged model is meant.
            store: The store that the user named.

        Raises:
            NotFoundError: If there is no such run, or it has not published that model.
        """
        ...

    def preview(self, launch: Launch) -> list[dict[str, Any]]:
        """Return the objects that a launch would write; none if it would start a process."""
        ...

    def estimate(self, launch: Launch, *, store: str | None, inside: bool) -> Estimate:
        """Estimate a finetuning run.

        Args:
            launch: What would be launched.
            store: The store, as this machine reaches it, that the user named.
            inside: Whether to read model and data from inside the target.

        Raises:
            UsageError: If this target does not support an option.
            NotFoundError: If the base model is not delivered, or torch is not installed where it would be needed.
            InvalidDataError: If rows of the data can't be trained on.
            UnavailableError: If the store can't be reached.
        """
        ...

    def judge(self, launch: Launch, estimate: Estimate) -> tuple[Verdict, tuple[Finding, ...]]:
        """Decide whether a finetuning run would fit and start now; nothing is written.

        Args:
            launch: What would be launched.
            estimate: What it would use.

        Returns:
            The verdict, and the findings that it is based on.
        """
        ...

    def launch(self, launch: Launch) -> RunInfo:
        """Start a run that outlives the caller, or join the one that is running with the same values.

        A name runs once: of two concurrent launches one starts the process and the other joins it.
        A run that has ended is started again and resumes from what it published.

        Raises:
            ConflictError: If a run of that name is running with other values; nothing is changed.
        """
        ...

    def list(self, verb: Verb | None = None) -> list[RunInfo]:
        """List the runs, newest launch first."""
        ...

    def get(self, key: RunKey) -> RunInfo:
        """Return the state of one run.

        Raises:
            NotFoundError: If there is no run with that key.
        """
        ...

    def values(self, key: RunKey) -> dict[str, Any]:
        """Return the resolved values that a run was launched with.

        Raises:
            NotFoundError: If there is no such run.
        """
        ...

    def logs(self, key: RunKey, *, follow: bool = False, newest: bool = False) -> Iterator[str]:
        """Yield the lines of a run's log, without line ends.

        Args:
            key: Which run.
            follow: Whether to wait for further lines until the run has ended.
            newest: Whether to yield the newest attempt's lines only.

        Raises:
            NotFoundError: If there is no such run.
        """
        ...

    def wait(self, key: RunKey, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until the run has ended.

        Raises:
            UnavailableError: If it is still running after the timeout.
        """
        ...

    def stop(self, key: RunKey, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Request that a run saves and stops, and wait until it has; a run that has ended is left as it is.

        Args:
            key: Which run.
            force: Whether to kill it if it has not stopped in time.
            timeout_seconds: How long it may take.

        Raises:
            NotFoundError: If there is no such run.
            UnavailableError: If it is still running after that time and `force` is false.
        """
        ...

    def reach(self, key: RunKey) -> AbstractContextManager[Reached]:
        """Open a connection to a running server for the duration of the `with` block.

        Raises:
            UsageError: If the run is not a server.
            UnavailableError: If the server can't be reached.
        """
        ...

    def delete_data(self, key: RunKey) -> int:
        """Delete what a finetuning run that has ended has published.

        Returns:
            How many objects were deleted.

        Raises:
            UsageError: If the run publishes nothing.
            ConflictError: If it is still running.
        """
        ...

    def delete(self, key: RunKey) -> RunInfo:
        """Delete the target's own state of a run that has ended, and return its last state. The store is not touched.

        Raises:
            NotFoundError: If there is no such run.
            ConflictError: If it is still running.
        """
        ...
