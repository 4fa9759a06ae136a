"""`runTensorboard`: event files are in the store while a run trains and after it has stopped, failed or finished."""

import signal
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lab.training import ARGUMENTS, REMOTE, changed, deliver_inputs, metrics, start, train_here
from tuneyard.errors import DivergedError

SHOWN = {"train/loss": "loss", "train/learning_rate": "learning_rate", "eval/loss": "eval_loss"}
EACH_STEP = {"runTensorboard": True, ARGUMENTS + "logging_steps": 1, ARGUMENTS + "eval_steps": 2}


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
    return tmp_path / "store"


def event_files(store):
    return sorted((store / REMOTE / "tensorboard").glob("events.out.tfevents.*"))


def curves(store):
    """What TensorBoard shows, by tag: steps and values."""
    read = EventAccumulator(str(store / REMOTE / "tensorboard")).Reload()
    scalars = read.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in SHOWN if tag in scalars}


def curves_of_metrics(store):
    rows = metrics(store)
    shown = {
        tag: [(row["step"], pytest.approx(row[name])) for row in rows if name in row and row["kind"] != "summary"]
        for tag, name in SHOWN.items()
    }
    return {tag: points for tag, points in shown.items() if points}


def test_events_are_in_the_store_while_it_trains_and_after_sigterm(store, tmp_path):
    values = changed(**EACH_STEP, **{ARGUMENTS + "num_train_epochs": 2000, ARGUMENTS + "save_strategy": "no"})
    process = start(values, store, tmp_path / "work")
    deadline = time.monotonic() + 120
    while not event_files(store) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]
    assert "train/loss" in curves(store)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=120)[1]
    assert process.returncode == 143, log
    assert f"To view this run in TensorBoard: tensorboard --logdir {store / REMOTE / 'tensorboard'}" in log
    assert len(curves(store)["train/loss"]) > 1
    assert curves(store) == curves_of_metrics(store)


def test_a_resumed_attempt_adds_to_the_events_of_the_one_before(store, tmp_path, caplog):
    """Events of repeated steps are shown once, as in metrics.jsonl."""
    caplog.set_level("INFO")
    values = changed(**EACH_STEP, **{ARGUMENTS + "save_steps": 4})
    with pytest.raises(OSError):
        train_here(values, store, tmp_path / "failed", kill_at=7, by=OSError)
    (first,) = event_files(store)
    before = first.read_bytes()
    assert [step for step, _ in curves(store)["train/loss"]] == list(range(1, 8))
    assert train_here(values, store, tmp_path / "resumed") == 0
    assert "resuming from step 4" in caplog.text
    assert len(event_files(store)) == 2
    assert first.read_bytes() == before
    assert [step for step, _ in curves(store)["train/loss"]] == list(range(1, 11))
    assert curves(store) == curves_of_metrics(store)
    machine = str(tmp_path.parents[1]).encode()
    assert not [path for path in event_files(store) if machine in path.read_bytes()]


def test_a_failed_run_leaves_its_events(store, tmp_path):
    values = changed(**EACH_STEP, **{ARGUMENTS + "learning_rate": 1e30})
    with pytest.raises(DivergedError):
        train_here(values, store, tmp_path / "work")
    assert curves(store)["train/loss"]
    assert curves(store) == curves_of_metrics(store)


def test_without_the_setting_there_are_no_events(store, tmp_path):
    train_here(changed(), store, tmp_path / "work")
    assert not event_files(store)
