"""Measure the time and the peak memory of the demo, including its detached processes.

    .venv/bin/python benchmarks/demo.py

Runs the demo with a temporary TUNEYARD_HOME. Five times a second, samples the proportional set size (PSS, shared
pages counted once) of every process that has this home in its environment, because the finetuning process and the
server are not children of the demo.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
EVERY_SECONDS = 0.2


def verb_of(command: list[str]) -> str:
    """Return the package that a process runs, or `demo`."""
    rooms = [word.removeprefix("tuneyard.") for word in command if word.startswith("tuneyard.")]
    return rooms[0] if rooms else "demo and commands"


def sample(home: str) -> dict[str, float]:
    """Return the memory in GiB, by package."""
    used: dict[str, float] = defaultdict(float)
    for process in psutil.process_iter():
        try:
            if process.environ().get("TUNEYARD_HOME") == home:
                used[verb_of(process.cmdline())] += process.memory_full_info().pss / 2**30
        except psutil.Error:
            continue
    return used


def main() -> None:
    """Run the demo and print the time and the peaks."""
    with tempfile.TemporaryDirectory(prefix="tuneyard-bench-") as home:
        environment = {**os.environ, "TUNEYARD_HOME": home}
        start = time.monotonic()
        demo = [sys.executable, str(ROOT / "examples/tuneyard-facts/demo.py")]
        process = subprocess.Popen(demo, env=environment, stdin=subprocess.DEVNULL, cwd=ROOT)
        peaks: dict[str, float] = defaultdict(float)
        while process.poll() is None:
            used = sample(home)
            for room, gib in {**used, "all together": sum(used.values())}.items():
                peaks[room] = max(peaks[room], gib)
            time.sleep(EVERY_SECONDS)
        seconds = time.monotonic() - start
        stop = [str(Path(sys.executable).with_name("tuneyard")), "stop", "serve/tuneyard-facts", "--quiet"]
        subprocess.run(stop, env=environment, check=False)
        print(f"\nexit {process.returncode}, {seconds:.0f} s")
        for room, gib in sorted(peaks.items(), key=lambda item: item[1]):
            print(f"peak {gib:5.2f} GiB  {room}")


if __name__ == "__main__":
    main()
