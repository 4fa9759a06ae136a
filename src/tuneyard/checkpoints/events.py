"""TensorBoard's event files of one attempt, which grow while it trains.

Each attempt writes files of its own, so none ever replaces another's; `Publisher` brings them to the store as they
grow. What is in them is not known here: `tuneyard.train.events` makes the writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

EVENTS_FOLDER = "tensorboard"
"""Its name, in an experiment and on the machine that trains."""


class EventFiles:
    """The local event files of an attempt.

    Args:
        folder: Where they are written; files of earlier attempts may lie there too.
        attempt: The attempt's number.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder = folder
        self.suffix = f".attempt-{attempt}"
        self._published: dict[str, int] = {}

    def grown(self) -> Iterator[Path]:
        """Give each file that has grown since it was published."""
        for path in sorted(self.folder.glob(f"*{self.suffix}")):
            if path.stat().st_size > self._published.get(path.name, 0):
                yield path

    def published(self, path: Path, size: int) -> None:
        """Note how much of a file is published.

        Args:
            path: One of `grown`.
            size: In bytes.
        """
        self._published[path.name] = size
