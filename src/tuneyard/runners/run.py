"""A handle on one run, for Python programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuneyard.runners.base import STOP_SECONDS, Runner
from tuneyard.runners.info import RunInfo, RunKey
from tuneyard.runners.waiting import changes, raise_if_not_succeeded

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """A handle on one run. It caches no state: every method reads it again.

    Attributes:
        key: The run's verb and name.
        runner: The runner that manages it.
    """

    key: RunKey
    runner: Runner

    @property
    def name(self) -> str:
        """The run's name."""
        return self.key.name

    @property
    def url(self) -> str | None:
        """The endpoint of a server (`http://…/v1`); None for other runs."""
        return self.info().url

    def info(self) -> RunInfo:
        """Return the run's state.

        Raises:
            NotFoundError: If it has been deleted.
        """
        return self.runner.get(self.key)

    def watch(self) -> Iterator[RunInfo]:
        """Yield the run's state now and after each change, until it has ended.

        Raises:
            NotFoundError: If it has been deleted.
        """
        return changes(self.runner, self.key, every_seconds=max(_POLL_SECONDS, self.runner.poll_seconds))

    def wait(self, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until the run has ended.

        Raises:
            RunEndedError: If it did not succeed.
            UnavailableError: If it is still running after that time.
        """
        return raise_if_not_succeeded(self.runner.wait(self.key, timeout_seconds=timeout_seconds))

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of the run's log; with `follow`, wait for more until it has ended."""
        return self.runner.logs(self.key, follow=follow)

    def stop(self, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Request that the run saves and stops, and wait until it has.

        Args:
            force: Whether to kill it if it has not stopped in time.
            timeout_seconds: How long it may take.

        Raises:
            UnavailableError: If it is still running after that time and `force` is false.
        """
        return self.runner.stop(self.key, force=force, timeout_seconds=timeout_seconds)

    def delete(self, *, data: bool = False) -> RunInfo:
        """Delete what the target keeps of a run that has ended, and return its last state.

        Args:
            data: Whether to also delete what a finetuning run has published in the store. This can't be undone.

        Raises:
            ConflictError: If it is still running.
            UsageError: If `data` is set and the run has no published data.
        """
        if data:
            self.runner.delete_data(self.key)
        return self.runner.delete(self.key)
