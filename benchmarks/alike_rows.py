"""Peak memory of the search for equal and nearly equal rows alone, over rows with made-up signatures.

    python benchmarks/alike_rows.py ROWS

One row in fifty is equal and one nearly equal to an earlier one. Reading, rendering and signing are left out, which is
what makes the four million rows of a dataset a matter of minutes; `million_rows.py` measures all of it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tuneyard.data import likeness


class Row:
    """As much of a conversation as the search looks at."""

    def __init__(self, number: int, signature: bytes) -> None:
        self.where = f"made-up.jsonl:{number}"
        self.signature = signature

    def digest(self) -> bytes:
        """Stand in for the hash of its content."""
        return self.signature[:32]


def rows(count: int) -> Iterator[Row]:
    """Make the rows, the same in every run."""
    chance = np.random.default_rng(3)
    earlier = [chance.bytes(likeness.SIGNATURE_BYTES) for _ in range(10_000)]
    for number in range(count):
        if number % 50 == 48:
            made = earlier[number % len(earlier)]
        elif number % 50 == 49:
            made = chance.bytes(4) + earlier[number % len(earlier)][4:]
        else:
            made = chance.bytes(likeness.SIGNATURE_BYTES)
        yield Row(number + 1, made)


def main() -> None:
    """Search, watching the memory of this process a hundred times a second."""
    count = int(sys.argv[1])
    swapped: Any = likeness
    swapped.read_rows = lambda paths, formats: rows(count) if paths else iter(())
    swapped._words = lambda row: row
    swapped.signature = lambda row: row.signature
    process = psutil.Process()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()
    began = time.monotonic()
    found = likeness.Likeness([Path("made-up.jsonl")])
    alike = sum(found.earlier(number) is not None for number in range(count))
    print(f"{count:,} rows, {alike:,} like an earlier one: {(peak - before) / count:.0f} bytes a row at the peak")
    print(f"{(peak - before) / 2**20:.0f} MiB, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
