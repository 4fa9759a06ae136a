"""The adapter is published before it is merged: a merge that is refused, killed or stopped costs nothing."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lab.broken_merges import broken
from lab.tiny_models import make_model
from lab.training import REMOTE, VALUES, changed, deliver_inputs, environment, start, train, train_here, write_values
from tuneyard.checkpoints import Experiment
from tuneyard.errors import IntegrityError
from tuneyard.job.inputs import is_complete
from tuneyard.store import open_store, write_manifest
from tuneyard.values import FinetuneValues

FINAL, MERGED = "checkpoint-final", "checkpoint-final-merged"
KWARGS = "finetuning_config.peft_conf.peft_kwargs"
MERGING = changed(
    mergeAdapter=True,
    **{f"{KWARGS}.target_modules": "all-linear", "finetuning_config.training_args.num_train_epochs": 1},
)
BREAKING = """
import sys
from lab.broken_merges import broken
from tuneyard.train.__main__ import main
with broken("the head is lost"):
    sys.exit(main())
"""


@pytest.fixture
def store(tmp_path):
    """A bfloat16 model, as most are published."""
    base = make_model(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    deliver_inputs(tmp_path / "store", folder=base)
    return tmp_path / "store"


def manifest(store, name):
    return json.loads((store / REMOTE / name / "manifest.json").read_text())


def is_merged(store):
    return (store / REMOTE / MERGED / "manifest.json").exists()


def until_merging(process, workdir):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if json.loads((workdir / "progress.json").read_text())["phase"] == "merging":
                return
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.005)
    raise AssertionError(f"it did not come to merging: {process.communicate()[1]}")


def test_a_refused_merge_leaves_the_adapter_published_and_is_repeated_by_the_next_launch(store, tmp_path):
    path = write_values(tmp_path / "work" / "values.json", MERGING)
    command = [sys.executable, "-c", BREAKING, str(path), "--workdir", str(tmp_path / "work")]
    tests = str(Path(__file__).parents[2])
    process = subprocess.run(
        command, env=environment(store, PYTHONPATH=tests), capture_output=True, text=True, check=False
    )
    assert process.returncode == 7, process.stderr
    error = next(line for line in process.stderr.splitlines() if line.startswith("error: "))
    assert "so the merge is not published" in error
    assert error.endswith(f"The adapter is published: {REMOTE}/{FINAL}.")
    assert f"hint: Serve the adapter itself: tuneyard serve --set model=s3://{REMOTE}/{FINAL}" in process.stderr
    adapter = manifest(store, FINAL)
    assert json.loads((store / REMOTE / "HEAD").read_text())["finished"]
    assert not is_merged(store)

    log = train(MERGING, store, tmp_path / "again")
    assert "starting at step" not in log
    assert manifest(store, FINAL) == adapter
    check = manifest(store, MERGED)["about"]["merge_check"]
    assert check["dtype"] == "bfloat16"
    assert 0 < check["kl"] < 2 * max(check["kl_adapter"], check["kl_base"])
    card = (store / REMOTE / MERGED / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "An adapter, merged into `" in card
    assert "divergence due to bfloat16" in card
    assert "nothing to do" in train(MERGING, store, tmp_path / "once-more")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_a_merge_that_is_killed_or_stopped_leaves_the_adapter_published(store, tmp_path, number, code):
    process = start(MERGING, store, tmp_path / "work")
    until_merging(process, tmp_path / "work")
    adapter = manifest(store, FINAL)
    process.send_signal(number)
    _, log = process.communicate(timeout=240)
    assert process.returncode == code, log
    assert not is_merged(store)
    if code == 143:
        assert "Launch the run again to merge it" in log
    train(MERGING, store, tmp_path / "again")
    assert manifest(store, FINAL) == adapter
    assert is_merged(store)


def test_a_merged_model_of_an_earlier_adapter_is_merged_anew(store, tmp_path):
    assert train_here(MERGING, store, tmp_path / "work") == 0
    values, opened = FinetuneValues.model_validate(MERGING), open_store(store.as_uri())
    assert is_complete(values, opened)
    experiment = Experiment(opened, REMOTE)
    found, merged = experiment.finished(), experiment.finished(MERGED)
    assert found is not None
    assert merged is not None
    assert merged.about["adapter"] == {"content_sha256": found.content_sha256}
    path = store / REMOTE / MERGED / "manifest.json"
    path.unlink()
    about = {**merged.about, "adapter": {"content_sha256": "0" * 64}}
    write_manifest(opened, f"{REMOTE}/{MERGED}/manifest.json", replace(merged, about=about))
    assert not is_complete(values, opened)
    assert is_complete(FinetuneValues.model_validate(VALUES), opened)


@pytest.mark.parametrize("kind", ["merged twice", "another rotation is written"])
def test_every_refusal_of_a_merge_names_the_published_adapter(store, tmp_path, kind):
    with broken(kind), pytest.raises(IntegrityError, match="The adapter is published: ") as caught:
        train_here(MERGING, store, tmp_path / "work")
    assert caught.value.exit_code == 7
    assert manifest(store, FINAL)
    assert not is_merged(store)
