"""SIGTERM loses nothing: the current step is saved and published, and a resume continues from it bit for bit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab.stopped_training import STOP_AFTER
from lab.training import (
    ARGUMENTS,
    REMOTE,
    changed,
    deliver_inputs,
    environment,
    final_sha256,
    metrics,
    start,
    train,
    until_step,
    write_values,
)

TESTS = Path(__file__).parents[2]
STOPPED_AT = STOP_AFTER + 1


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
    return tmp_path / "store"


def committed(store):
    return sorted(path.parent.name for path in (store / REMOTE).glob("checkpoint-*-*/manifest.json"))


def test_sigterm_between_two_saves_commits_its_step_and_the_resume_is_bit_equal(store, tmp_path):
    """The stop falls into a step that no periodic save takes, so that only the stop can have saved it."""
    values, workdir = (
        changed(**{ARGUMENTS + "save_steps": STOP_AFTER, ARGUMENTS + "save_total_limit": None}),
        tmp_path / "work",
    )
    assert STOPPED_AT % STOP_AFTER
    path = write_values(workdir / "values.json", values)
    ran = subprocess.run(
        [sys.executable, TESTS / "lab" / "stopped_training.py", path, "--workdir", workdir],
        env=environment(store, PYTHONPATH=str(TESTS)),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 143, ran.stderr
    assert f"Stopped after step {STOPPED_AT}: it is saved" in ran.stderr
    assert committed(store) == [f"checkpoint-{STOP_AFTER}-1", f"checkpoint-{STOPPED_AT}-1"]
    assert json.loads((store / REMOTE / "HEAD").read_text())["checkpoint"]["step"] == STOPPED_AT
    shutil.rmtree(workdir)  # another machine: nothing but the store is left
    log = train(values, store, workdir)
    assert f"Attempt 2: resuming from step {STOPPED_AT}" in log
    resumed = metrics(store), final_sha256(store)
    shutil.rmtree(store / REMOTE)
    train(values, store, tmp_path / "never-stopped")
    assert (metrics(store), final_sha256(store)) == resumed


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_without_periodic_saves(store, tmp_path, processes):
    """Without periodic saves, whichever step the signal falls into, its checkpoint is there because of the signal."""
    changes = {"save_strategy": "no", "eval_strategy": "no", "num_train_epochs": 500}
    values = changed(finetuningGpus=processes, **{ARGUMENTS + name: value for name, value in changes.items()})
    process = start(values, store, tmp_path / "work")
    until_step(process, tmp_path / "work", 2)
    process.terminate()
    log = process.communicate(timeout=120)[1]
    assert process.returncode == 143, log
    stopped_at = int(log.split("Stopped after step ")[1].split(":")[0])
    assert committed(store) == [f"checkpoint-{stopped_at}-1"]
    states = {path.name for path in (store / REMOTE / f"checkpoint-{stopped_at}-1").glob("rng_state*.pth")}
    assert states == ({"rng_state.pth"} if processes == 1 else {"rng_state_0.pth", "rng_state_1.pth"})
