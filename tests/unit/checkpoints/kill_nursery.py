"""Publishes checkpoints in child processes and kills them at random moments; a program of `test_kills`, not a test.

    python kill_nursery.py STORE_URL PREFIX WORK_FOLDER TRIALS SEED

Each trial forks a child that restores, checks what it got, and publishes on as fast as it can; SIGKILL ends it
somewhere. One line of JSON for each trial goes to standard output. No thread may run here: only then is a fork a fresh
process.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from lab.checkpoints import experiment, is_checkpoint_of, make_checkpoint, record
from tuneyard.checkpoints import CheckpointRef, MetricsLog, Publisher, RetentionPolicy
from tuneyard.store import open_store

SCALE = 4.0
"""Checkpoints of half a megabyte, so that kills fall into transfers too."""


def publish_until_killed(url: str, prefix: str, work: Path, pipe: int) -> None:
    """Resume from what is there, and write each committed step to the pipe."""
    exp = experiment(open_store(url), prefix)
    attempt = exp.claim(record(r=8))
    restored = exp.restore(work, on_damage=lambda sentence: tell(pipe, damage=sentence))
    step = 0
    if restored:
        step = restored.ref.step
        tell(pipe, restored=step, right=is_checkpoint_of(restored.path, step, scale=SCALE))
    attempt.begin(restored.ref if restored else None)
    metrics = MetricsLog(work / "metrics.jsonl", rows=exp.read_metrics(), up_to_step=step)
    tell(pipe, rows=[row["step"] for row in metrics.rows()])

    def published(folder: Path, ref: CheckpointRef | None) -> None:
        if ref:
            tell(pipe, committed=ref.step)

    retention = RetentionPolicy(keep=2)
    with Publisher(attempt, retention=retention, metrics=metrics, on_published=published) as publisher:
        while True:
            step += 1
            metrics.append({"step": step, "loss": 1 / step})
            publisher.submit(make_checkpoint(work / f"made-{step}", step, scale=SCALE), step, {"best": 1})
            publisher.flush(timeout_seconds=60)


def tell(pipe: int, **facts: object) -> None:
    os.write(pipe, json.dumps(facts).encode() + b"\n")


def trial(url: str, prefix: str, work: Path, *, lines: int, delay_seconds: float) -> list[dict[str, object]]:
    """Kill one child so long after it has written so many lines, and return what it wrote.

    Lines and not time alone, so that a busy machine kills at the same kinds of moments as an idle one.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            publish_until_killed(url, prefix, work, theirs)
        except BaseException:
            tell(theirs, error=traceback.format_exc())
        finally:
            os._exit(1)
    os.close(theirs)
    written = b""
    while written.count(b"\n") < lines and (more := os.read(ours, 4096)):
        written += more
    time.sleep(delay_seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(ours, "rb") as rest:
        written += rest.read()
    return [json.loads(line) for line in written.split(b"\n")[:-1]]


def main() -> None:
    """Run the trials."""
    url, prefix, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    trials, seed = int(sys.argv[4]), int(sys.argv[5])
    dice = random.Random(seed)
    for number in range(trials):
        work = folder / f"trial-{number}"
        work.mkdir(parents=True)
        moment = {"lines": dice.choice([0, 1, 2, 3, 4, 5]), "delay_seconds": dice.uniform(0.0, 0.15)}
        print(json.dumps(trial(url, prefix, work, **moment)), flush=True)


if __name__ == "__main__":
    main()
