"""TensorBoard's event files of one attempt, which grow while it trains.

Each attempt writes its own files, so none replaces another's; `Publisher` copies them to the store as they grow.
`tuneyard.train.events` creates the writer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

EVENTS_FOLDER = "tensorboard"
"""The folder's name, in an experiment and on the machine that trains."""


class EventFiles:
    """The local event files of an attempt.

    Args:
        folder: Their folder, which may hold files of earlier attempts too.
        attempt: The attempt's number.
    """

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder = folder
        self.suffix = f".attempt-{attempt}"
        self._published: dict[str, int] = {}

    def grown(self) -> Iterator[Path]:
        """Yield each file that has grown since it was published."""
        for path in sorted(self.folder.glob(f"*{self.suffix}")):
            if path.stat().st_size > self._published.get(path.name, 0):
                yield path

    def published(self, path: Path, size: int) -> None:
        """Record how much of a file is published.

        Args:
            path: One of `grown`.
            size: The published size in bytes.
        """
        self._published[path.name] = size
