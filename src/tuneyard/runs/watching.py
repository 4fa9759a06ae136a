"""A run's state whenever it changes, for whoever looks on."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tuneyard.runs.base import Runner
from tuneyard.runs.info import RunInfo, RunKey


def changes(runner: Runner, key: RunKey, *, every_seconds: float = 0.5) -> Iterator[RunInfo]:
    """Give what is known of a run now and after each change; the last one tells how it ended.

    Args:
        runner: Where it runs.
        key: Which run.
        every_seconds: How often to look.

    Raises:
        NotFoundError: If there is no such run.
    """
    last: RunInfo | None = None
    while last is None or not last.ended:
        info = runner.get(key)
        if info != last:
            yield info
        last = info
        if not info.ended:
            time.sleep(every_seconds)
