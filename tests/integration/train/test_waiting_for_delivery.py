"""A training that is started before its delivery has finished waits for it, and for nothing else."""

from __future__ import annotations

import signal
from pathlib import Path

from lab.training import ARGUMENTS, VALUES, changed, deliver_inputs, final_sha256, start, train

SHORT = changed(**{ARGUMENTS + "max_steps": 2, ARGUMENTS + "eval_strategy": "no"})


def _wait_notice(process) -> str:
    for line in process.stderr:
        if "Waiting up to" in line:
            return line
    raise AssertionError("it never logged that it waits")


def test_training_starts_as_soon_as_everything_is_delivered(tmp_path: Path):
    store = tmp_path / "store"
    process = start(SHORT, store, tmp_path / "work", TUNEYARD_WAIT_SECONDS="500")
    assert "There is no model at 'default-bucket/models/tiny' in" in _wait_notice(process)
    deliver_inputs(store)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert "Waiting" not in log, "it is logged once"
    assert final_sha256(store)


def test_an_elapsed_wait_is_exit_4(tmp_path: Path):
    log = train(VALUES, tmp_path / "store", tmp_path / "work", code=4, TUNEYARD_WAIT_SECONDS="1")
    assert "tuneyard deliver --set modelID" in log


def test_sigterm_ends_the_wait(tmp_path: Path):
    process = start(VALUES, tmp_path / "store", tmp_path / "work", TUNEYARD_WAIT_SECONDS="600")
    _wait_notice(process)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 143, log


def test_a_store_that_cannot_be_reached_is_not_waited_for(tmp_path: Path):
    values = changed(bucketStorageHost="http://127.0.0.1:9")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    waiting = {"TUNEYARD_STORE": "", "TUNEYARD_WAIT_SECONDS": "600", **keys}
    log = train(values, tmp_path / "store", tmp_path / "work", code=8, **waiting)
    assert "Waiting up to" not in log
