"""How far a finetuning run is, read from the files that its process keeps in its work folder.

`progress.json` is the newest state, replaced as training goes; `metrics.jsonl` has every logged step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tuneyard.runs.info import RunProgress
from tuneyard.runs.records import read_json

_TAIL_BYTES = 8192


def read_progress(work: Path) -> RunProgress | None:
    """Tell how far the run is; None where its process has not told yet.

    Args:
        work: The run's work folder.
    """
    told = read_json(work / "progress.json")
    # The loss is told with each step; between and after them (evaluating, publishing) the newest logged one holds.
    row = _newest_row(work / "metrics.jsonl") if told is None or told.get("loss") is None else None
    if told is None and row is None:
        return None
    record = {**(row or {}), **(told or {})}
    return RunProgress(
        step=record.get("step") or 0,
        max_steps=record.get("max_steps") or 0,
        loss=record.get("loss"),
        seconds_per_step=record.get("seconds_per_step"),
        seconds_left=record.get("seconds_left"),
        phase=record.get("phase") or "",
    )


def _newest_row(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if not line.endswith(b"\n"):
            continue  # still being written
        try:
            row = json.loads(line)
        except ValueError:
            continue  # the head of the tail, cut anywhere
        if isinstance(row, dict) and "loss" in row:
            return row
    return None
