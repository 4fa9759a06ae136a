"""The runner: what every target can do with runs. The verbs above it never ask which target it is.

`LocalRunner` (`local/`) is the one on this machine, `KubernetesRunner` (`kubernetes/`) the one of a cluster; both take
the same `Launch`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from tuneyard.runners.info import RunInfo, RunKey, Verb

if TYPE_CHECKING:
    from tuneyard.cluster.demand import Finding
    from tuneyard.estimate import Estimate, Verdict

STOP_SECONDS = 60.0
"""How long `stop` waits by itself: a process that is told to stop first saves and publishes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a runner needs to start a run.

    Attributes:
        key: The verb and the name.
        values: The resolved values as canonical JSON; the process reads nothing else.
        store: The store's URL.
        experiment: Where in the store a finetuning run publishes.
        host: The address a served model listens on.
        port: The port it listens on; None takes the first free one from 8080.
    """

    key: RunKey
    values: bytes
    store: str
    experiment: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None

    @property
    def values_sha256(self) -> str:
        """The hash of what is public of the values."""
        from tuneyard.values import values_sha256

        return values_sha256(json.loads(self.values))

    @property
    def on_accelerators(self) -> bool:
        """Whether the values ask for accelerators."""
        return bool(json.loads(self.values).get("gpuResource"))


@dataclass(frozen=True, slots=True)
class Reached:
    """A served model as this machine reaches it.

    Attributes:
        url: The endpoint (`http://…/v1`).
        api_key: What it is asked with; empty where it wants none.
    """

    url: str
    api_key: str = field(default="", repr=False)


class Runner(Protocol):
    """Starts runs and tells about them. Every method may be called from any process, also after a reboot."""

    @property
    def store_is_here(self) -> bool:
        """Whether this machine reaches the store that runs use: then it is looked into before a launch."""
        ...

    @property
    def look_seconds(self) -> float:
        """How long to wait from one look at a run to the next."""
        ...

    @property
    def words(self) -> str:
        """What a command has to say to mean this runner (` --on kubernetes`); empty for this machine."""
        ...

    def preview(self, launch: Launch) -> list[dict[str, Any]]:
        """Give the objects that a launch would write; none where it would start a process."""
        ...

    def judge(self, launch: Launch, told: Estimate) -> tuple[Verdict, tuple[Finding, ...]]:
        """Tell whether a finetuning run would fit and start now, and what says so; nothing is written.

        Args:
            launch: What would be launched.
            told: What it would take.
        """
        ...

    def estimate(self, launch: Launch) -> Estimate:
        """Estimate a finetuning run where it would run, for a store that only that place reaches.

        Raises:
            UsageError: If that place is this machine.
        """
        ...

    def launch(self, launch: Launch) -> RunInfo:
        """Start a run that lives on without the caller, or join the one that already does exactly this.

        One name runs once: of two launches at the same time one starts the process and the other finds it.
        A run that has ended is started again and goes on from what it published.

        Raises:
            ConflictError: If a run of that name is working with other values; nothing is changed.
        """
        ...

    def list(self, verb: Verb | None = None) -> list[RunInfo]:
        """Tell of every run, newest launch first."""
        ...

    def get(self, key: RunKey) -> RunInfo:
        """Tell of one run.

        Raises:
            NotFoundError: If there is none under that key.
        """
        ...

    def values(self, key: RunKey) -> dict[str, Any]:
        """Give the resolved values that a run was launched with.

        Raises:
            NotFoundError: If there is no such run.
        """
        ...

    def logs(self, key: RunKey, *, follow: bool = False, newest: bool = False) -> Iterator[str]:
        """Give the lines that the run's process wrote, without line ends.

        Args:
            key: Which run.
            follow: Whether to wait for further lines until the run has ended.
            newest: Whether to give the newest attempt's lines only.

        Raises:
            NotFoundError: If there is no such run.
        """
        ...

    def wait(self, key: RunKey, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until the run has ended; a run that can't be waited out raises `UnavailableError` at the timeout."""
        ...

    def stop(self, key: RunKey, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Tell a run to save and stop, and wait until it has; one that has ended already is left as it is.

        Args:
            key: Which run.
            force: Whether to kill it where it has not stopped in time.
            timeout_seconds: How long it may take.

        Raises:
            NotFoundError: If there is no such run.
            UnavailableError: If it still works after that time and `force` is false.
        """
        ...

    def reach(self, key: RunKey) -> AbstractContextManager[Reached]:
        """Lead the way to a server that runs, for as long as the `with` block does.

        Raises:
            UsageError: If the run is no server.
            UnavailableError: If there is no way to it.
        """
        ...

    def delete_data(self, key: RunKey) -> int:
        """Remove what a finetuning run that has ended has published, and tell how many objects that were.

        Raises:
            UsageError: If the run publishes none.
            ConflictError: If it still works.
        """
        ...

    def delete(self, key: RunKey) -> RunInfo:
        """Remove the runner's own state of a run that has ended, and tell what it was. The store is not touched.

        Raises:
            NotFoundError: If there is no such run.
            ConflictError: If it still works.
        """
        ...
