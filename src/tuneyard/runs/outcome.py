"""How a run that was waited for came out, as an error where it did not succeed."""

from __future__ import annotations

from tuneyard.errors import TERMINATED, TuneyardError, UnavailableError
from tuneyard.runs.info import RunInfo


class RunEndedError(TuneyardError):
    """Raised when a run that was waited for failed, was stopped or was interrupted.

    Args:
        info: What is known of the run.
    """

    def __init__(self, info: RunInfo) -> None:
        ended = f"The run {info.key} {_ENDED[info.status]}"
        told = info.error or info.why
        hint = info.hint or f"See what it printed: tuneyard logs {info.key}"
        super().__init__(f"{ended}: {told}" if told else f"{ended}.", hint=hint, run=info.to_dict())
        self.info = info

    def __reduce__(self) -> tuple[type[RunEndedError], tuple[RunInfo]]:
        return type(self), (self.info,)

    @property
    def run_exit_code(self) -> int:
        """What a command that waited for the run ends with: the run's own code; 8 where it vanished without one."""
        if self.info.exit_code is not None and self.info.status != "stopped":
            return self.info.exit_code
        return TERMINATED if self.info.status == "stopped" else UnavailableError.exit_code


_ENDED = {"failed": "failed", "stopped": "was stopped", "interrupted": "was interrupted"}


def raise_if_not_succeeded(info: RunInfo) -> RunInfo:
    """Return what is known of a run that succeeded or still works.

    Raises:
        RunEndedError: If it ended in any other way.
    """
    if info.ended and info.status != "succeeded":
        raise RunEndedError(info)
    return info
