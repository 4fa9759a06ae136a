"""Measure the peak memory and time of the search for equal and nearly equal rows, over synthetic records.

    python benchmarks/duplicates.py ROWS

One row in fifty is equal and one in fifty nearly equal to an earlier row. Reading, rendering and computing signatures
are left out, so that four million rows take minutes; `million_rows.py` measures everything.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import psutil

from tuneyard.data.duplicates import RECORD_BYTES, SIGNATURE_BYTES, most_similar


def records(count: int) -> Iterator[bytes]:
    """Generate the records, the same in every run."""
    rng = np.random.default_rng(3)
    earlier = [rng.bytes(SIGNATURE_BYTES) for _ in range(10_000)]
    for number in range(count):
        if number % 50 == 48:
            made = earlier[number % len(earlier)]
        elif number % 50 == 49:
            made = rng.bytes(4) + earlier[number % len(earlier)][4:]
        else:
            made = rng.bytes(SIGNATURE_BYTES)
        yield made[: RECORD_BYTES - SIGNATURE_BYTES] + made


def main() -> None:
    """Search while sampling the memory of this process a hundred times a second."""
    count = int(sys.argv[1])
    process = psutil.Process()
    before = peak = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.01)

    threading.Thread(target=sample, daemon=True).start()
    began = time.process_time()
    body = bytearray()
    for record in records(count):
        body += record
    found = most_similar(np.frombuffer(body, np.uint8).reshape(-1, RECORD_BYTES))
    similar = int((found.others >= 0).sum())
    print(f"{count:,} rows, {similar:,} duplicates: {(peak - before) / count:.0f} bytes a row at the peak")
    print(f"{(peak - before) / 2**20:.0f} MiB, {time.process_time() - began:.0f} s of CPU time")


if __name__ == "__main__":
    main()
