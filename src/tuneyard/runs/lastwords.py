"""What a failed process said last: the sentence and the hint that the entry points print before they end."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_BYTES = 16_384
# The forms of `tuneyard.process.tell_error`.
_ERROR, _HINT = "error:", "hint:"


def last_words(log: Path, *, offset: int = 0) -> tuple[str, str]:
    """Find the newest error and its hint in a log.

    Args:
        log: The log; it need not exist.
        offset: Where in it the attempt of interest begins.

    Returns:
        The sentence with its problems, one a line, and the hint; where there is no `error:` line, the last line that
        says anything.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "", ""
    said = [line.rstrip() for line in lines if line.strip()]
    for place in range(len(said) - 1, -1, -1):
        if said[place].startswith(_ERROR):
            after = said[place + 1 :]
            hints = [line.removeprefix(_HINT).strip() for line in after if line.startswith(_HINT)]
            problems = [line for line in after if line.startswith("  ")]
            return "\n".join([said[place].removeprefix(_ERROR).strip(), *problems]), hints[0] if hints else ""
    return (said[-1].strip() if said else ""), ""
