"""What a finetuning has published is a base like any other; an adapter is not, wherever it comes from."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lab.training import ARGUMENTS, MODEL, REMOTE, changed, deliver_inputs, train_here
from tuneyard.delivery import deliver
from tuneyard.errors import ConflictError, InvalidValuesError, NotFoundError
from tuneyard.store import open_store, read_manifest
from tuneyard.values import DeliverValues

CONF = "finetuning_config.peft_conf"
SECOND = "default-bucket/experiments/second"
SHORT = {ARGUMENTS + "num_train_epochs": 1, ARGUMENTS + "eval_strategy": "no"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with a finished run: an adapter and its merged model."""
    folder = tmp_path_factory.mktemp("finished")
    deliver_inputs(folder / "store")
    train_here(changed(mergeAdapter=True, **SHORT), folder / "store", folder / "work")
    return folder / "store"


def on(base, **more):
    return changed(basemodel=base, checkpointsRemote=SECOND, **SHORT, **more)


def plan(store, values, tmp_path):
    path = tmp_path / "values.json"
    path.write_text(json.dumps(values))
    words = ["finetune", "-f", str(path), "--store", store.as_uri(), "--dry-run"]
    return subprocess.run([sys.executable, "-m", "tuneyard", *words], capture_output=True, text=True, check=False)


def test_a_merged_model_is_trained_on_as_it_was_published(store, tmp_path):
    base = f"{REMOTE}/checkpoint-final-merged"
    still = {ARGUMENTS + "learning_rate": 1e-30, ARGUMENTS + "weight_decay": 0.0}
    values = on(base, **{CONF: {"peft_type": "NO_PEFT"}}, **still)
    assert plan(store, values, tmp_path).returncode == 0
    train_here(values, store, tmp_path / "work")
    manifest = read_manifest(open_store(store.as_uri()), f"{SECOND}/checkpoint-final/manifest.json")
    merged = read_manifest(open_store(store.as_uri()), f"{base}/manifest.json")
    assert manifest.about["base"] == {"key": base, "content_sha256": merged.content_sha256}
    before, after = (load_file(store / one / "model.safetensors") for one in (base, f"{SECOND}/checkpoint-final"))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], weight, rtol=0, atol=1e-20) for name, weight in after.items())
    delivered = load_file(store / MODEL / "model.safetensors")
    assert any(not torch.allclose(delivered[name], weight, atol=1e-5) for name, weight in after.items())
    whole = on(f"{SECOND}/checkpoint-final") | {"checkpointsRemote": "default-bucket/experiments/third"}
    assert plan(store, whole, tmp_path).returncode == 0


def test_a_runs_adapter_is_refused_with_a_hint_to_its_merged_model(store, tmp_path):
    values = on(f"{REMOTE}/checkpoint-final")
    done = plan(store, values, tmp_path)
    assert done.returncode == 3
    assert "basemodel" in done.stderr
    assert f"basemodel={REMOTE}/checkpoint-final-merged" in done.stderr.replace("\n", "")
    with pytest.raises(InvalidValuesError, match="an adapter"):
        train_here(values, store, tmp_path / "work")


def test_the_hint_for_a_missing_merged_model_is_to_merge(store, tmp_path):
    shutil.copytree(store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / REMOTE / "checkpoint-final-merged")
    done = plan(tmp_path / "store", on(f"{REMOTE}/checkpoint-final"), tmp_path)
    assert done.returncode == 3
    assert "mergeAdapter=true" in done.stderr


def test_a_delivered_adapter_is_not_a_base_whatever_folder_it_names(store, tmp_path):
    other = store / MODEL  # a folder on this machine, which no manifest of this run vouches for
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(other), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "adapter")
    shutil.copy(other / "config.json", tmp_path / "adapter")
    target = "default-bucket/models/adapter"
    deliver_to(store, tmp_path / "adapter", target, tmp_path)
    values = on(target)
    done = plan(store, values, tmp_path)
    assert done.returncode == 3
    assert "is an adapter" in done.stderr
    with pytest.raises(InvalidValuesError, match="an adapter"):
        train_here(values, store, tmp_path / "work")


def test_a_missing_result_is_waited_for_and_never_overwritten_by_a_delivery(store, tmp_path):
    done = plan(store, on(f"{SECOND}-2/checkpoint-final-merged"), tmp_path)
    assert done.returncode == 0  # a dry run
    with pytest.raises(NotFoundError) as caught:
        train_here(on(f"{SECOND}-2/checkpoint-final-merged"), store, tmp_path / "work")
    assert "tuneyard runs" in caught.value.hint
    assert "deliver" not in caught.value.hint


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_delivery_never_overwrites_a_result(store, tmp_path, overwrite):
    before = {path: path.read_bytes() for path in (store / REMOTE).rglob("*") if path.is_file()}
    with pytest.raises(ConflictError, match="A run has published its result"):
        deliver_to(store, store / MODEL, f"{REMOTE}/checkpoint-final", tmp_path, allowOverwrite=overwrite)
    assert {path: path.read_bytes() for path in (store / REMOTE).rglob("*") if path.is_file()} == before


def test_a_checkpoint_is_not_a_base(store, tmp_path):
    (checkpoint,) = [path.name for path in (store / REMOTE).glob("checkpoint-[0-9]*")][-1:]
    done = plan(store, on(f"{REMOTE}/{checkpoint}"), tmp_path)
    assert done.returncode == 3
    assert "a checkpoint to resume training from" in done.stderr.replace("\n", " ")


def deliver_to(store, source, target, tmp_path, **more):
    values = DeliverValues.model_validate({"modelID": str(source), "bucketModelPath": target, **more})
    return deliver(values, open_store(store.as_uri()), workdir=tmp_path / "delivery")
