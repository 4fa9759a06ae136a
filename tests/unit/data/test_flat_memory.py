"""Checking more rows takes about 200 bytes of memory a row, for the search for duplicates, and keeps no row."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import psutil
import pytest

from lab.chats import row
from tuneyard.data import check

PEAK = """
import json, resource, sys
from tuneyard.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def write(path: Path, rows: int) -> Path:
    rng = random.Random(2)
    words = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(3000)]
    with path.open("w") as file:
        for _ in range(rows):
            file.write(json.dumps(row(" ".join(rng.choices(words, k=20)), " ".join(rng.choices(words, k=40)))))
            file.write("\n")
    return path


def test_check_keeps_no_row(tmp_path, make_encoder):
    encoder = make_encoder("chatml")
    check([write(tmp_path / "warm.jsonl", 1000)], encoder)
    process = psutil.Process()
    before = process.memory_info().rss
    peaks: list[int] = []

    def advance(_: float) -> None:
        nonlocal rows
        rows += 1
        if rows % 500 == 0:
            peaks.append(process.memory_info().rss)

    rows = 0
    report = check([write(tmp_path / "rows.jsonl", 5000)], encoder, progress=lambda _: nullcontext(advance))
    assert (report.kept, rows) == (5000, 10_000)
    # as objects the rows take 5 KB each with what they are encoded as, 25 MB in all
    assert max(peaks) - before < 8 * 2**20


@pytest.mark.soak
def test_peak_memory_of_a_check_grows_by_a_few_hundred_bytes_a_row(tmp_path, tokenizer_folder):
    model = str(tokenizer_folder("chatml"))
    peaks: list[int] = []
    for rows in (20_000, 100_000):
        path = str(write(tmp_path / f"{rows}.jsonl", rows))
        words = [sys.executable, "-c", PEAK, "data", "check", path, "--model", model, "--json", "--quiet"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["report"]["kept"] == rows
        peaks.append(int(done.stderr.split()[-1]) * 1024)
    # the search for duplicates takes up to 200 bytes a row, a row as objects 5,000
    assert peaks[1] - peaks[0] < 80_000 * 300
