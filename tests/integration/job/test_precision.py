"""Weights that are trained are float32 under autocast, whatever the base is stored in, unless values insist."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lab.tiny_models import make_model
from lab.training import ARGUMENTS, MODEL, REMOTE, changed, deliver_inputs, train, train_here

CONF = "finetuning_config.peft_conf"
RUN = "finetuning_config.run_conf."
FULL = {
    CONF: {"peft_type": "NO_PEFT"},
    ARGUMENTS + "learning_rate": 1e-5,
    ARGUMENTS + "num_train_epochs": 1,
    ARGUMENTS + "weight_decay": 0.0,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model stored in bfloat16."""
    folder = make_model(tmp_path_factory.mktemp("model") / "tiny")
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def store(base, tmp_path):
    deliver_inputs(tmp_path / "store", folder=base)
    return tmp_path / "store"


def newest_weights(store):
    newest = max((store / REMOTE).glob("checkpoint-[0-9]*"), key=lambda path: int(path.name.split("-")[1]))
    return load_file(newest / "model.safetensors")


def moved(store, weights):
    """The share of weights that differ from the base's."""
    before = load_file(store / MODEL / "model.safetensors")
    changed_ones = sum(weights[name].float().ne(weight.float()).sum().item() for name, weight in before.items())
    return changed_ones / sum(weight.numel() for weight in before.values())


def test_every_weight_of_a_bfloat16_model_learns_in_full_finetuning(store, tmp_path):
    log = train(changed(**FULL), store, tmp_path / "work")
    assert "trained weights are float32 and computed in bfloat16" in log
    weights = newest_weights(store)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    used = [name for name in weights if "embed" not in name]  # rows of tokens that no text has never move
    assert moved(store, {**load_file(store / MODEL / "model.safetensors"), **{n: weights[n] for n in used}}) > 0.5
    layer = "model.layers.0.mlp.up_proj.weight"
    before = load_file(store / MODEL / "model.safetensors")[layer].float()
    assert weights[layer].ne(before).float().mean() > 0.99


def test_what_is_published_has_the_bases_type_and_is_rounded_once(store, tmp_path):
    assert train_here(changed(**FULL, **{ARGUMENTS + "save_strategy": "epoch"}), store, tmp_path / "work") == 0
    final = load_file(store / REMOTE / "checkpoint-final/model.safetensors")
    last = newest_weights(store)
    assert final.keys() == last.keys()
    for name, weight in final.items():
        assert torch.equal(weight, last[name].to(torch.bfloat16)), name
    assert json.loads((store / REMOTE / "checkpoint-final/config.json").read_text())["dtype"] == "bfloat16"
    served = AutoModelForCausalLM.from_pretrained(store / REMOTE / "checkpoint-final")
    assert served.dtype == torch.bfloat16


def test_values_that_insist_train_in_the_type_that_is_loaded(store, tmp_path):
    assert train_here(changed(**FULL, **{RUN + "trained_weights": "as-loaded"}), store, tmp_path / "work") == 0
    weights = newest_weights(store)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    layer = "model.layers.0.mlp.up_proj.weight"
    before = load_file(store / MODEL / "model.safetensors")[layer]
    assert weights[layer].ne(before).float().mean() < 0.5


def test_the_walkthroughs_recipe_trains_float32_weights(store, tmp_path):
    recipe = {RUN + "model_args": {"torch_dtype": "bfloat16", "use_cache": False}, ARGUMENTS + "bf16": True}
    assert train_here(changed(**FULL, **recipe), store, tmp_path / "work") == 0
    assert {weight.dtype for weight in newest_weights(store).values()} == {torch.float32}


def test_a_resume_goes_on_bit_for_bit_in_float32(store, tmp_path):
    from lab.training import killed_and_resumed

    killed_and_resumed(changed(**FULL), store, tmp_path, kill_at=4)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"bias": "all"},
        {"trainable_token_indices": [3, 4, 5]},
        {"use_dora": True},
        {},
    ],
)
def test_whatever_an_adapter_trains_is_float32(kwargs, store, tmp_path):
    conf = {"peft_type": "LORA", "peft_kwargs": {"r": 4, "target_modules": ["q_proj", "v_proj"], **kwargs}}
    values = changed(**{**FULL, CONF: conf, ARGUMENTS + "learning_rate": 1e-3})
    assert train_here(values, store, tmp_path / "work") == 0
    weights = load_file(store / REMOTE / "checkpoint-final/adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    shutil.rmtree(tmp_path / "work")
