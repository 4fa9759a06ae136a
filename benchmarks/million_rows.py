"""Measure the peak memory of `tuneyard data check` over many rows, compared with loading the same file as a table.

    python benchmarks/million_rows.py --model FOLDER [--rows 1000000] [--folder build/million]

Writes a file of conversations made of random words (about 0.4 KB per row; one in fifty is equal and one in fifty
nearly equal to an earlier row). Checks it, then loads it with `datasets.load_dataset` and with pandas, each in a
separate process. Peaks are `ru_maxrss` of each process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

CHECK = """
import sys
from tuneyard.cli import main
sys.argv = ["tuneyard", "data", "check", sys.argv[1], "--model", sys.argv[2], "--json", "--quiet"]
main()
"""
DATASETS = """
import sys, datasets
print(len(datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[2])))
"""
PANDAS = "import sys, pandas; print(len(pandas.read_json(sys.argv[1], lines=True)))"
PEAK = """
import atexit, resource, sys
atexit.register(lambda: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
"""


def write(path: Path, rows: int) -> None:
    """Write the conversations, the same in every run."""
    rng = random.Random(7)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    earlier: list[list[str]] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            chosen = rng.choices(words, k=rng.randint(20, 80))
            if number % 50 == 48:
                chosen = rng.choice(earlier)
            elif number % 50 == 49:
                chosen = [*rng.choice(earlier), "indeed"]
            elif len(earlier) < 10_000:
                earlier.append(chosen)
            half = len(chosen) // 3
            messages = [
                {"role": "user", "content": " ".join(chosen[:half])},
                {"role": "assistant", "content": " ".join(chosen[half:])},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def measure(script: str, *words: str) -> tuple[str, float, float]:
    """Run a script and return its output, its seconds and its peak memory in MiB."""
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PEAK + script, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return done.stdout, time.monotonic() - begun, int(done.stderr.split()[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a tokenizer and a chat template")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("build/million"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    path = arguments.folder / f"rows-{arguments.rows}.jsonl"
    write(path, arguments.rows)
    print(f"{arguments.rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB")
    for name, script, word in (
        ("tuneyard data check", CHECK, arguments.model),
        ("datasets.load_dataset", DATASETS, str(arguments.folder / "cache")),
        ("pandas.read_json", PANDAS, ""),
    ):
        printed, seconds, peak = measure(script, str(path), word)
        print(f"{name:24} {seconds:8.1f} s {peak:9,.0f} MiB", flush=True)
        if script is CHECK:
            report = json.loads(printed)["report"]
            counted = ("rows", "kept", "duplicates", "near_duplicates", "problem_count")
            print("  " + ", ".join(f"{key} {report[key]:,}" for key in counted))


if __name__ == "__main__":
    main()
