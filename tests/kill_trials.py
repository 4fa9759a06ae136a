"""Kill -9 a training at a random moment, launch it again, and compare with one that nobody killed.

A program of its own, since it forks: torch and transformers are imported once and each trial costs seconds. The killed
process is the real entry point's code, and SIGKILL leaves it no chance to tidy up.

    python kill_trials.py STORE_FOLDER WORK_FOLDER VALUES TRIALS SEED

Prints one JSON line per trial and one of the reference run, and nothing else on standard output.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def launch(values: Path, workdir: Path) -> int:
    """Fork a process that trains as `python -m tuneyard.train` does; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(workdir / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # the newest launch's alone
        os.dup2(log, 2)
        sys.argv = ["train", str(values), "--workdir", str(workdir)]
        from tuneyard.train.__main__ import main

        code = main()
    finally:
        os._exit(code)


def run_to_end(values: Path, workdir: Path) -> tuple[int, float]:
    """Train without a kill; exit code and seconds."""
    began = time.monotonic()
    _, status = os.waitpid(launch(values, workdir), 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def trial(store: Path, work: Path, base: dict[str, Any], number: int, delay_seconds: float) -> dict[str, Any]:
    """Kill once after `delay_seconds`, launch again, and tell what was found."""
    from training import changed, final_sha256, metrics, write_values

    remote = f"default-bucket/experiments/kill-{number}"
    workdir = work / f"kill-{number}"
    values = write_values(workdir / "values.json", changed(base, checkpointsRemote=remote))
    pid = launch(values, workdir)
    time.sleep(delay_seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    committed, step_reached = state(store / remote, workdir)
    if number % 2:  # half of the trials go on on another machine, which has nothing but the store
        shutil.rmtree(workdir)
        write_values(values, changed(base, checkpointsRemote=remote))
    code, _ = run_to_end(values, workdir)
    said = (workdir / "log").read_text(encoding="utf-8")
    starts = [line for line in said.splitlines() if line.startswith("attempt ")]
    resumed_from = int(starts[0].rsplit(" ", 1)[1]) if starts else None  # None: it had finished before the kill
    result = {
        "trial": number,
        "delay_seconds": delay_seconds,
        "killed": killed,
        "committed": committed,
        "step_reached": step_reached,
        "resumed_from": resumed_from,
        "code": code,
        "said": said[-2000:] if code else "",
        "metrics": metrics(store, remote) if code == 0 else None,
        "weights": final_sha256(store, remote) if code == 0 else None,
    }
    shutil.rmtree(store / remote)
    shutil.rmtree(workdir)
    return result


def state(experiment: Path, workdir: Path) -> tuple[list[int], int]:
    """Steps with a committed checkpoint right after the kill, and the step that training had reached."""
    manifests = experiment.glob("checkpoint-*-*/manifest.json")
    steps = sorted(int(path.parent.name.split("-")[1]) for path in manifests)
    try:
        reached = json.loads((workdir / "progress.json").read_text(encoding="utf-8")).get("step", 0)
    except (FileNotFoundError, ValueError):
        reached = 0
    return steps, reached


def main() -> None:
    """Run the reference and the trials."""
    store, work, values_path = (Path(text) for text in sys.argv[1:4])
    trials, seed = int(sys.argv[4]), int(sys.argv[5])
    os.environ.update(TUNEYARD_STORE=store.as_uri(), HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    from training import REMOTE, changed, final_sha256, metrics, write_values

    import tuneyard.train.worker  # noqa: F401 - imported before the forks, so that each costs seconds

    base = json.loads(values_path.read_text(encoding="utf-8"))
    reference = work / "reference"
    write_values(reference / "values.json", changed(base, checkpointsRemote=REMOTE))
    code, seconds = run_to_end(reference / "values.json", reference)
    told: dict[str, Any] = {"reference": code, "seconds": seconds}
    if code == 0:
        told.update(metrics=metrics(store), weights=final_sha256(store))
    print(json.dumps(told), flush=True)
    chance = random.Random(seed)
    for number in range(trials):
        print(json.dumps(trial(store, work, base, number, chance.uniform(0.05, 1.0) * seconds)), flush=True)


if __name__ == "__main__":
    main()
