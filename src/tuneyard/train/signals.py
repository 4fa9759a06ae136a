"""SIGTERM as a wish that training ends at its next step boundary."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Remembers that SIGTERM came; ask it whether training is to end.

    Install it in the main thread only. A second SIGTERM changes nothing: the save under way is the reason to wait.
    """

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> StopRequest:
        """Take SIGTERM from now on, also one that was held back until here (`supervisor`), and return self."""
        signal.signal(signal.SIGTERM, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True

    def __call__(self) -> bool:
        """Whether SIGTERM has come."""
        return self.requested
