"""`python -m tuneyard.train` from values to a published model, and every documented way it ends."""

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lab.training import (
    ARGUMENTS,
    DATA,
    REMOTE,
    VALUES,
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
from tuneyard.runners.kubernetes.info import read_progress

CONF = "finetuning_config.peft_conf"
MERGED = "checkpoint-final-merged"


@pytest.fixture(scope="module")
def delivered_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("delivered")
    deliver_inputs(folder / "store")
    return folder / "store"


@pytest.fixture
def store(delivered_store, tmp_path):
    return shutil.copytree(delivered_store, tmp_path / "store")


@pytest.fixture(scope="module")
def finished(delivered_store, tmp_path_factory):
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("finished")
    store = shutil.copytree(delivered_store, folder / "store")
    log = train(VALUES, store, folder / "work")
    return store, log


def published(store, name="checkpoint-final"):
    return store / REMOTE / name


def checkpoints(store):
    return sorted(path.name for path in (store / REMOTE).glob("checkpoint-*-*") if (path / "manifest.json").exists())


def long(**changes):
    """Values of a run with enough steps to be stopped in."""
    return changed(**{ARGUMENTS + "num_train_epochs": 12, ARGUMENTS + "eval_steps": 20, **changes})


def test_a_run_publishes_weights_tokenizer_card_and_plots(finished):
    store, log = finished
    names = {path.name for path in published(store).iterdir()}
    assert names >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        "README.md",
        "loss.svg",
        "loss.png",
        "manifest.json",
    }
    assert "training_args.bin" not in names
    about = json.loads((published(store) / "manifest.json").read_text())["about"]
    assert about["type"] == "adapter"
    assert about["base"]["key"] == VALUES["basemodel"]
    assert "Finished: " in log
    assert "20 conversations" in (published(store) / "README.md").read_text()


def test_the_model_card_and_the_adapter_name_the_base_by_its_key_and_nothing_names_this_machine(finished, tmp_path):
    store, _ = finished
    config = json.loads((published(store) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == VALUES["basemodel"]
    machine = str(tmp_path.parents[1]).encode()
    texts = [path for path in (store / REMOTE).rglob("*") if path.is_file()]
    assert len(texts) > 20
    assert not [path for path in texts if machine in path.read_bytes()]


def test_metrics_have_each_step_once_and_end_with_a_summary(finished):
    store, _ = finished
    rows = metrics(store)
    assert [row["step"] for row in rows if row["kind"] == "train"] == [3, 6, 9]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [4, 8, 10]
    assert [row["kind"] for row in rows].count("summary") == 1
    assert all(row["max_steps"] == 10 for row in rows)


def test_retention_keeps_the_newest_checkpoints_in_the_bucket(finished):
    store, _ = finished
    assert checkpoints(store) == ["checkpoint-10-1", "checkpoint-8-1"]


def test_a_finished_run_launched_again_does_nothing(finished, tmp_path):
    store, _ = finished
    before = (store / REMOTE / "HEAD").read_bytes()
    log = train(VALUES, store, tmp_path / "again")
    assert "nothing to do" in log
    assert "Loading torch" not in log
    assert (store / REMOTE / "HEAD").read_bytes() == before


def test_the_best_checkpoint_is_restored_on_another_machine_and_published(store, tmp_path):
    best = {
        ARGUMENTS + "num_train_epochs": 12,
        ARGUMENTS + "eval_steps": 2,
        ARGUMENTS + "save_strategy": "best",
        ARGUMENTS + "load_best_model_at_end": True,
        ARGUMENTS + "metric_for_best_model": "loss",
        ARGUMENTS + "greater_is_better": True,  # so that the best lies at the beginning, long before the stop
        ARGUMENTS + "save_total_limit": 1,
    }
    values, workdir = changed(**best), tmp_path / "work"
    process = start(values, store, workdir)
    until_step(process, workdir, 30)
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=120)[1]
    assert process.returncode == 143, log
    shutil.rmtree(workdir)
    train(values, store, workdir)
    losses = {row["step"]: row["eval_loss"] for row in metrics(store) if row["kind"] == "eval"}
    best_step = max(losses, key=losses.__getitem__)
    assert best_step < 30, "the best evaluation has to lie before the stop for this test to mean anything"
    manifest = json.loads(next((store / REMOTE).glob(f"checkpoint-{best_step}-*/manifest.json")).read_text())
    kept = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert final_sha256(store)["adapter_model.safetensors"] == kept["adapter_model.safetensors"]


def test_two_processes_have_the_losses_of_one(store, tmp_path):
    exact = {"finetuning_config.peft_conf.peft_kwargs.lora_dropout": 0.0, ARGUMENTS + "logging_steps": 1}
    losses = {}
    for processes in (1, 2):
        remote = f"{REMOTE}-{processes}"
        values = changed(checkpointsRemote=remote, finetuningGpus=processes, **exact)
        train(values, store, tmp_path / f"work-{processes}")
        rows = metrics(store, remote)
        losses[processes] = [row["loss"] for row in rows if row["kind"] == "train"]
        losses[processes] += [row["eval_loss"] for row in rows if row["kind"] == "eval"]
    assert len(losses[1]) == 13
    assert losses[2] == pytest.approx(losses[1], abs=1e-5, rel=0)
    assert losses[2] != losses[1][::-1]


def children_of(process, count):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children()
        if len(children) == count:
            return children
        time.sleep(0.005)
    raise AssertionError(f"{count} processes were not started: {process.communicate()[1]}")


def test_a_stop_while_the_processes_load_ends_them_all_with_143(store, tmp_path):
    process = start(long(finetuningGpus=2), store, tmp_path / "work")
    children_of(process, 2)
    process.send_signal(signal.SIGTERM)
    log = process.communicate(timeout=120)[1]
    assert process.returncode == 143, log
    assert "Stopped after step 1" in log


def test_no_process_survives_a_killed_supervisor(store, tmp_path):
    process, workdir = start(long(finetuningGpus=2), store, tmp_path / "work"), tmp_path / "work"
    children = children_of(process, 2)
    until_step(process, workdir, 1)
    process.kill()
    process.communicate(timeout=60)
    assert not psutil.wait_procs(children, timeout=120)[1]


def test_the_exit_code_of_the_main_process_is_returned(store, tmp_path):
    nothing_there = {"finetuning_config.run_conf.resume_from_checkpoint": True}
    words = tmp_path / "words"
    values = long(finetuningGpus=2, **nothing_there)
    log = train(values, store, tmp_path / "work", code=4, TUNEYARD_TERMINATION_LOG=str(words))
    assert log.count("error:") == 1
    assert "has no checkpoint to resume from" in json.loads(words.read_text())["error"], "those of the one that failed"


def test_a_terminal_shows_a_moving_bar_and_whole_lines_above_it(store, tmp_path):
    screen, end = pty.openpty()
    values = changed(**{ARGUMENTS + "max_steps": 60, ARGUMENTS + "num_train_epochs": 12})
    path = write_values(tmp_path / "work" / "values.json", values)
    command = [sys.executable, "-m", "tuneyard.train", str(path), "--workdir", str(tmp_path / "work")]
    process = subprocess.Popen(command, env=environment(store, TERM="xterm"), stderr=end, stdin=end)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while chunk := os.read(screen, 65536):
            shown += chunk
    os.close(screen)
    assert process.wait(300) == 0, shown
    text = shown.decode()
    states = [state for state in text.replace("\n", "\r").split("\r") if re.search(r"[━╸╺].*step \d+ of 60, ", state)]
    assert states, "no bar was drawn"
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    assert any(line.startswith("Training: step 60 of 60, loss ") for line in lines), lines
    assert any(line.startswith(f"Finished: '{REMOTE}/checkpoint-final'") for line in lines), lines
    # A cluster's log of it gives the newest step, whatever was drawn last.
    progress = read_progress(text.split("\n"))
    assert progress is not None and (progress.step, progress.max_steps) == (60, 60)
    assert progress.loss


@pytest.mark.parametrize(
    ("damaged", "changes"),
    [
        # 5 steps are an epoch: 7 break the second one off
        ([], {"max_steps": 7}),
        # what an epoch's end logs and evaluates is in the checkpoint of its last step
        (["checkpoint-10-1"], {"save_steps": 5, "logging_strategy": "epoch", "eval_strategy": "epoch"}),
    ],
)
def test_resume_at_an_epochs_or_the_trainings_end_neither_repeats_nor_skips_a_step(store, tmp_path, damaged, changes):
    values = changed(**{ARGUMENTS + name: value for name, value in changes.items()})
    train(values, store, tmp_path / "work")
    whole = metrics(store), final_sha256(store)
    shutil.rmtree(published(store))
    for name in damaged:
        shutil.rmtree(published(store, name))
    assert "Attempt 2: resuming from step" in train(values, store, tmp_path / "elsewhere")
    assert (metrics(store), final_sha256(store)) == whole


def test_a_changed_cadence_applies_after_a_resume(store, tmp_path):
    train(VALUES, store, tmp_path / "work")
    shutil.rmtree(published(store))
    shutil.rmtree(published(store, "checkpoint-10-1"))
    train(changed(**{ARGUMENTS + "logging_steps": 1}), store, tmp_path / "elsewhere")
    assert [row["step"] for row in metrics(store) if row["kind"] == "train"] == [3, 6, 9, 10]


def test_other_settings_under_the_same_experiment_are_a_conflict_that_names_the_keys(finished, tmp_path):
    store, _ = finished
    other = changed(**{ARGUMENTS + "learning_rate": 0.5, "finetuning_config.peft_conf.peft_kwargs.r": 8})
    log = train(other, store, tmp_path / "other", code=6)
    assert "finetuning_config.training_args.learning_rate: 0.01 → 0.5" in log
    assert "finetuning_config.peft_conf" in log
    assert "checkpointsRemote" in log


def test_logging_may_change_between_attempts(finished, tmp_path):
    store, _ = finished
    log = train(changed(**{ARGUMENTS + "logging_steps": 1}), store, tmp_path / "other")
    assert "nothing to do" in log


def test_merging_can_be_requested_after_the_run_is_finished(finished, tmp_path):
    shared, _ = finished
    store = shutil.copytree(shared, tmp_path / "store")
    train(changed(mergeAdapter=True), store, tmp_path / "work")
    names = {path.name for path in published(store, MERGED).iterdir()}
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"} <= names
    assert not [name for name in names if name.startswith("adapter_")]
    about = json.loads((published(store, MERGED) / "manifest.json").read_text())["about"]
    assert about["type"] == "model"
    assert "nothing to do" in train(changed(mergeAdapter=True), store, tmp_path / "again")


def test_all_parameters_can_be_trained(store, tmp_path):
    values = changed(**{"finetuning_config.peft_conf": {"peft_type": "NO_PEFT"}, ARGUMENTS + "learning_rate": 1e-3})
    train(values, store, tmp_path / "work")
    assert set(final_sha256(store)) == {"model.safetensors"}
    assert json.loads((published(store) / "manifest.json").read_text())["about"]["type"] == "model"


def flip_a_bit(path):
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


@pytest.fixture
def stopped(store, tmp_path):
    """A run stopped after at least two checkpoints were published."""
    values, workdir = long(), tmp_path / "work"
    process = start(values, store, workdir)
    until_step(process, workdir, 7)
    process.send_signal(signal.SIGTERM)
    assert process.communicate() and process.returncode == 143
    shutil.rmtree(workdir)
    names = sorted(checkpoints(store), key=lambda name: int(name.split("-")[1]))
    assert len(names) == 2
    return store, values, workdir, names


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(stopped):
    store, values, workdir, (older, newest) = stopped
    flip_a_bit(store / REMOTE / newest / "optimizer.pt")
    log = train(values, store, workdir)
    assert f"'{newest}' is damaged and skipped" in log
    assert f"resuming from step {older.split('-')[1]}" in log


def test_no_verifiable_checkpoint_is_exit_7_and_never_a_fresh_start(stopped):
    store, values, workdir, names = stopped
    for name in names:
        flip_a_bit(store / REMOTE / name / "adapter_model.safetensors")
    log = train(values, store, workdir, code=7)
    assert "adapter_model.safetensors" in log
    assert "starting at step 0" not in log


def test_a_missing_accelerator_is_exit_8_unless_the_cpu_is_allowed(store, tmp_path):
    values = changed(gpuResource="amd.com/gpu", **{ARGUMENTS + "max_steps": 2, ARGUMENTS + "eval_strategy": "no"})
    log = train(values, store, tmp_path / "work", code=8)
    assert "The values request 1 accelerator(s)" in log
    assert "TUNEYARD_DEVICE=cpu" in log
    train(values, store, tmp_path / "work", TUNEYARD_DEVICE="cpu")
    assert final_sha256(store)


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"basemodel": "default-bucket/models/absent"}, 4, "There is no model at 'default-bucket/models/absent' in"),
        ({CONF: {"peft_type": "LOHA"}}, 3, "finetuning_config.peft_conf.peft_type: is not supported by this version"),
        ({"distributedType": "auto-deepspeed-stage3"}, 3, "distributedType: is not supported by this version"),
        ({ARGUMENTS + "save_only_model": True}, 3, "can't be resumed from"),
        ({"finetuning_config.sft_args.max_seq_length": 8}, 3, "25 of them longer than 8 tokens"),
    ],
    ids=["no base model", "adapter", "distributed", "model only", "nothing to train"],
)
def test_unsupported_values_are_reported_in_a_sentence(delivered_store, tmp_path, changes, code, words):
    log = train(changed(**changes), delivered_store, tmp_path / "work", code=code)
    assert words in log
    assert "Traceback" not in log
    assert not (delivered_store / REMOTE).exists(), "a mistake leaves nothing in the store"


def test_every_invalid_row_is_listed_before_any_training(tmp_path):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = [{"messages": [{"role": "user", "content": "a"}]}, {"text": "a"}]
    deliver_inputs(tmp_path / "store", rows=[good, bad[0], good, bad[1]])
    log = train(VALUES, tmp_path / "store", tmp_path / "work", code=3)
    name = DATA.rpartition("/")[2]
    assert f"{name}:2" in log
    assert f"{name}:4" in log
    assert f"{name}:1" not in log
