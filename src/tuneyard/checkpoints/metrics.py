"""metrics.jsonl: every logged step as one line of JSON, the source of each table and plot.

Rows are appended to a local file and synced to the disk at once; `Publisher` and `Attempt.write_metrics` copy the whole
file to the store, to be read during training. A resume uses the copy in its checkpoint: the rows up to its step, under
its manifest's hashes. So each step appears once.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tuneyard.errors import IntegrityError

METRICS_FILE = "metrics.jsonl"
"""The file's name, in an experiment and in each of its checkpoints."""


class MetricsLog:
    """A local metrics.jsonl that rows are appended to. May be used from several threads.

    Args:
        path: The file, which is replaced with `rows`.
        rows: The rows to resume from (`Experiment.rows_of`).
        up_to_step: Later rows are dropped; the step of the restored checkpoint, 0 for a fresh start.

    Raises:
        IntegrityError: `rows` has a line, other than an incomplete last one, that is not a row.
    """

    def __init__(self, path: Path, *, rows: bytes = b"", up_to_step: int = 0) -> None:
        self.path = path
        self._lock = threading.Lock()
        kept = [row for row in parse_rows(rows) if row["step"] <= up_to_step]
        beside = path.with_name(f".{path.name}.new")
        with beside.open("wb") as file:
            file.write(b"".join(map(_line, kept)))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def append(self, row: Mapping[str, Any]) -> None:
        """Append one row and sync it to the disk.

        NaN and infinity, which JSON lacks, are written as null.

        Args:
            row: Plain JSON values; `step` is an int.
        """
        if not isinstance(row.get("step"), int):
            raise ValueError(f"A row of metrics needs an int as 'step', not {row.get('step')!r}.")
        with self._lock, self.path.open("ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def snapshot(self) -> bytes:
        """Return the current content of the file."""
        with self._lock:
            return self.path.read_bytes()

    def rows(self) -> list[dict[str, Any]]:
        """Return every row so far."""
        return list(parse_rows(self.snapshot()))


def parse_rows(body: bytes) -> Iterator[dict[str, Any]]:
    """Parse the rows of a metrics.jsonl.

    A last line without its end, as a kill during a write leaves it, is ignored.

    Raises:
        IntegrityError: A line is not a JSON object with an int `step`.
    """
    lines = body.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not isinstance(cast("dict[str, Any]", row).get("step"), int):
            raise IntegrityError(
                f"Line {number} of metrics.jsonl is not a row of metrics: {line[:80]!r}.",
                hint="Restore metrics.jsonl from a backup of the bucket, or delete it: no checkpoint needs it.",
                line=number,
            )
        yield cast("dict[str, Any]", row)


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps({key: _finite(value) for key, value in row.items()}, allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
