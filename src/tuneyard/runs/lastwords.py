"""What a failed process said last: the sentence and the hint that the entry points print before they end."""

from __future__ import annotations

import os
from pathlib import Path

_TAIL_BYTES = 16_384


def last_words(log: Path, *, offset: int = 0) -> tuple[str, str]:
    """Find the newest error and its hint in a log.

    Args:
        log: The log; it need not exist.
        offset: Where in it the attempt of interest begins.

    Returns:
        The sentence and the hint; where no `error:` line is found, the last line that says anything.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return "", ""
    said = [line.strip() for line in lines if line.strip()]
    for place in range(len(said) - 1, -1, -1):
        label, colon, sentence = said[place].partition(":")
        if colon and label.lower() == "error":
            hints = [line.partition(":")[2].strip() for line in said[place + 1 :] if line.lower().startswith("hint:")]
            return sentence.strip(), hints[0] if hints else ""
    return (said[-1] if said else ""), ""
