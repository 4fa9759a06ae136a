"""`python -m lab.killed_publisher STORE_URL PREFIX FOLDER TRIALS SEED`: publishers that are killed at random moments.

Each trial forks a child that restores, checks what it got, and publishes as fast as it can until SIGKILL ends it. A
line of JSON per trial goes to standard output. A program of its own because a fork is only a fresh process where no
thread runs; `run_kill_trials` starts it, and `check_kill_trials` checks what it printed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.checkpoints import experiment, is_checkpoint_of, make_checkpoint, no_damage, record
from tuneyard.checkpoints import CheckpointRef, MetricsLog, Publisher, RetentionPolicy
from tuneyard.store import Store, open_store

SCALE = 4.0
"""Checkpoints of half a megabyte, so that kills fall into transfers too."""


def _publish_until_killed(url: str, prefix: str, work: Path, pipe: int) -> None:
    """Resume from the newest checkpoint and publish; report each committed step over the pipe."""
    exp = experiment(open_store(url), prefix)
    attempt = exp.claim(record(r=8))
    restored = exp.restore(work, on_damage=lambda sentence: _report(pipe, damage=sentence))
    step = 0
    if restored:
        step = restored.ref.step
        _report(pipe, restored=step, equal=is_checkpoint_of(restored.path, step, scale=SCALE))
    attempt.begin(restored.ref if restored else None)
    metrics = MetricsLog(work / "metrics.jsonl", rows=exp.read_metrics(), up_to_step=step)
    _report(pipe, rows=[row["step"] for row in metrics.rows()])

    def published(folder: Path, ref: CheckpointRef | None) -> None:
        if ref:
            _report(pipe, committed=ref.step)

    retention = RetentionPolicy(keep=2)
    with Publisher(attempt, retention=retention, metrics=metrics, on_published=published) as publisher:
        while True:
            step += 1
            metrics.append({"step": step, "loss": 1 / step})
            publisher.submit(make_checkpoint(work / f"made-{step}", step, scale=SCALE), step, {"best": 1})
            publisher.flush(timeout_seconds=300)


def _report(pipe: int, **facts: object) -> None:
    os.write(pipe, json.dumps(facts).encode() + b"\n")


def _trial(url: str, prefix: str, work: Path, *, lines: int, delay_seconds: float) -> list[dict[str, object]]:
    """Kill one child a delay after its n-th report, and return its reports.

    Counting reports and not time alone makes a loaded machine kill at the same kinds of moments as an idle one.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _publish_until_killed(url, prefix, work, writing)
        except BaseException:
            _report(writing, error=traceback.format_exc())
        finally:
            os._exit(1)
    os.close(writing)
    reported = b""
    while reported.count(b"\n") < lines and (more := os.read(reading, 4096)):
        reported += more
    time.sleep(delay_seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as rest:
        reported += rest.read()
    return [json.loads(line) for line in reported.split(b"\n")[:-1]]


def run_kill_trials(
    url: str, prefix: str, folder: Path, *, trials: int, seed: int, env: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """Run this program, and return what each child reported before it was killed."""
    finished = subprocess.run(
        [sys.executable, "-m", "lab.killed_publisher", url, prefix, str(folder), str(trials), str(seed)],
        env={**env, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(lines) == trials
    return lines


def check_kill_trials(store: Store, prefix: str, folder: Path, trials: list[list[dict[str, Any]]]) -> None:
    """Check that each trial resumed from the newest committed checkpoint, whole, with its metrics."""
    last_committed = resumed = 0
    for number, reports in enumerate(trials):
        where = f"trial {number}: {reports}"
        for fact in reports:
            assert "error" not in fact, where
            assert "damage" not in fact, where
            if "restored" in fact:
                resumed += 1
                assert fact["equal"], where
                # A kill between the commit and its report leaves one step more than was reported.
                assert last_committed <= fact["restored"] <= last_committed + 1, where
                last_committed = fact["restored"]
            if "rows" in fact:
                assert fact["rows"] == list(range(1, last_committed + 1)), where
            last_committed = fact.get("committed", last_committed)
    assert resumed > len(trials) / 3, "the kills came too early to show anything"
    restored = experiment(store, prefix).restore(folder / "last", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, restored.ref.step, scale=SCALE)
    assert restored.best is not None


def main() -> None:
    """Run the trials."""
    url, prefix, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    trials, seed = int(sys.argv[4]), int(sys.argv[5])
    rng = random.Random(seed)
    for number in range(trials):
        work = folder / f"trial-{number}"
        work.mkdir(parents=True)
        moment = {"lines": rng.choice([0, 1, 2, 3, 4, 5]), "delay_seconds": rng.uniform(0.0, 0.15)}
        print(json.dumps(_trial(url, prefix, work, **moment)), flush=True)


if __name__ == "__main__":
    main()
