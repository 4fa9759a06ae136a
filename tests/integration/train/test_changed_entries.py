"""An adapter that was trained with other entries of its base's config is merged and served with these."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lab.training import ARGUMENTS, MODEL, REMOTE, changed, deliver_inputs, train_here
from tuneyard.serving.flags import app_settings
from tuneyard.serving.loading import load_models
from tuneyard.serving.placement import place_models
from tuneyard.serving.vllm import build_command
from tuneyard.store import open_store
from tuneyard.values import InferenceValues

ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 50}}
SAME = {"vocab_size": 400}
ARGS = "finetuning_config.run_conf.model_args"
SHORT = {ARGUMENTS + "num_train_epochs": 1, ARGS: {**ROTATION, **SAME, "attention_dropout": 0.1}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    deliver_inputs(folder / "store")
    assert train_here(changed(mergeAdapter=True, **SHORT), folder / "store", folder / "work") == 0
    return folder / "store"


def placed(store, workdir):
    served = InferenceValues.model_validate({"model": f"s3://{REMOTE}/checkpoint-final", "gpuResource": ""})
    return served, place_models(served, open_store(store.as_uri()), workdir)


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])).logits


def test_the_manifest_and_the_card_name_exactly_the_changed_entries(trained):
    about = json.loads((trained / REMOTE / "checkpoint-final/manifest.json").read_text())["about"]
    assert about["config"] == {**ROTATION, "attention_dropout": 0.1}
    card = (trained / REMOTE / "checkpoint-final/README.md").read_text()
    assert '| config.json `rope_parameters`, changed | `{"rope_theta": 50, "rope_type": "default"}` |' in card


def test_served_and_merged_models_match_plain_transformers_with_these_entries(trained, tmp_path):
    served, placement = placed(trained, tmp_path)
    tuned, base = load_models(placement, app_settings(served.vllm_engine_args), "cpu")
    final = trained / REMOTE / "checkpoint-final"
    alone = AutoModelForCausalLM.from_pretrained(trained / MODEL, **ROTATION)
    torch.testing.assert_close(logits(base.model), logits(alone))
    expected = logits(PeftModel.from_pretrained(alone, final).eval())
    torch.testing.assert_close(logits(tuned.model), expected)
    merged = AutoModelForCausalLM.from_pretrained(trained / REMOTE / "checkpoint-final-merged")
    torch.testing.assert_close(logits(merged), expected, rtol=1e-5, atol=1e-5)
    otherwise = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(trained / MODEL), final).eval()
    assert (logits(otherwise) - expected).abs().max() > 1e-3


def test_vllm_gets_the_entries(trained, tmp_path):
    served, placement = placed(trained, tmp_path)
    command = build_command(served, placement, host="127.0.0.1", port=1, guarded=False, on_cpu=True, finish_seconds=5)
    overrides = json.loads(command[command.index("--hf-overrides") + 1])
    assert overrides == {**ROTATION, "attention_dropout": 0.1}


def test_a_whole_model_has_them_in_its_own_config(tmp_path):
    deliver_inputs(tmp_path / "store")
    whole = {"finetuning_config.peft_conf": {"peft_type": "NO_PEFT"}, ARGUMENTS + "learning_rate": 1e-3}
    assert train_here(changed(**SHORT, **whole), tmp_path / "store", tmp_path / "work") == 0
    final = tmp_path / "store" / REMOTE / "checkpoint-final"
    config = json.loads((final / "config.json").read_text())
    assert config["rope_parameters"] == ROTATION["rope_parameters"]
    assert config["attention_dropout"] == 0.1
    assert "config" not in json.loads((final / "manifest.json").read_text())["about"]
