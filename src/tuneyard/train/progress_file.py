"""`progress.json`: how far a training process is, in a small file that `tuneyard watch` reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

PROGRESS_FILE = "progress.json"


def write_progress(workdir: Path, **facts: Any) -> None:
    """Replace `progress.json` in one step.

    Args:
        workdir: The process's folder.
        facts: `phase` (a word), and while training `step`, `max_steps`, `loss`, `seconds_left`.
    """
    target = workdir / PROGRESS_FILE
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps({**facts, "time": time.time()}), encoding="utf-8")
    partial.replace(target)
