"""Measure the start-up time of the command line, as a ratio to that of an empty Python program.

.venv/bin/python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
TUNEYARD = str(Path(sys.executable).with_name("tuneyard"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "tuneyard --help": [TUNEYARD, "--help"],
    "tuneyard finetune --help": [TUNEYARD, "finetune", "--help"],
    "tuneyard runs": [TUNEYARD, "runs"],
}


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run the commands in turn and print minimum, median and ratio."""
    for command in COMMANDS.values():
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    nothing = statistics.median(taken["python -c pass"])
    for name, times in taken.items():
        middle = statistics.median(times)
        print(f"{name:26} min {min(times):.3f} s  median {middle:.3f} s  {middle / nothing:4.1f} x")


if __name__ == "__main__":
    main()
