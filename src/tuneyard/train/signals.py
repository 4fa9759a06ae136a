"""SIGTERM as a request to end training at the next step boundary."""

from __future__ import annotations

import signal
from types import FrameType


def never() -> bool:
    """Stand for a stop request that never comes."""
    return False


class StopRequest:
    """Records SIGTERM; calling it returns whether training has to end.

    Install it in the main thread only. A second SIGTERM changes nothing: the process is still alive because it saves.

    Attributes:
        requested: Whether SIGTERM was received.
    """

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> StopRequest:
        """Handle SIGTERM from now on, including one that was blocked until here (`supervisor`), and return self."""
        signal.signal(signal.SIGTERM, self._record)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self

    def _record(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True

    def __call__(self) -> bool:
        """Return whether SIGTERM was received."""
        return self.requested
