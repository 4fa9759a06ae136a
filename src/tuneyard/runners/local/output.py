"""The output of a local run's process: its progress, and the last error in its log.

`progress.json` is the newest state, replaced during training; `metrics.jsonl` has every logged step; the log ends with
the error and the hint that an entry point prints before it ends.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tuneyard.runners.info import RunProgress
from tuneyard.runners.local.records import read_json

_METRICS_TAIL_BYTES = 8192
_LOG_TAIL_BYTES = 16_384
# The forms of `tuneyard.process.print_error`.
_ERROR, _HINT = "error:", "hint:"


def last_error(log: Path, *, offset: int = 0) -> tuple[str, str]:
    """Find the newest error and its hint in a log.

    Args:
        log: The log; it need not exist.
        offset: Where in it the attempt of interest begins.

    Returns:
        The message with its problems, one a line, and the hint; if there is no `error:` line, the last line that is not
        empty.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "", ""
    lines = [line.rstrip() for line in lines if line.strip()]
    for place in range(len(lines) - 1, -1, -1):
        if lines[place].startswith(_ERROR):
            after = lines[place + 1 :]
            hints = [line.removeprefix(_HINT).strip() for line in after if line.startswith(_HINT)]
            problems = [line for line in after if line.startswith("  ")]
            return "\n".join([lines[place].removeprefix(_ERROR).strip(), *problems]), hints[0] if hints else ""
    return (lines[-1].strip() if lines else ""), ""


def read_progress(work: Path) -> RunProgress | None:
    """Read the run's progress; None if its process has recorded nothing yet.

    Args:
        work: The run's work folder.
    """
    state = read_json(work / "progress.json")
    # Each step records its loss; between and after steps (evaluating, publishing) the newest logged one holds.
    row = _newest_row(work / "metrics.jsonl") if state is None or state.get("loss") is None else None
    if state is None and row is None:
        return None
    record = {**(row or {}), **(state or {})}
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
            file.seek(max(0, file.seek(0, os.SEEK_END) - _METRICS_TAIL_BYTES))
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
