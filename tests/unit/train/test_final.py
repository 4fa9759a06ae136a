"""What serving takes keeps the base's generation settings, also those that transformers reads but refuses to write."""

import json
from types import SimpleNamespace

from tiny_models import make_model
from transformers import AutoModelForCausalLM

from tuneyard.train.final import set_generation
from tuneyard.train.model import load_base
from tuneyard.values import FinetuningConfig

REFUSED = {"temperature": 0.2, "top_p": 0.9, "eos_token_id": 2}


def test_a_model_with_settings_that_transformers_refuses_to_write_can_be_saved(tmp_path):
    base = make_model(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(REFUSED))
    load_base(base, FinetuningConfig(), "cpu", where="base", dtype="float32").save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_the_stop_token_joins_the_settings_and_nothing_else_of_them_changes(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(REFUSED))
    set_generation(SimpleNamespace(eos_token_id=7), tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {**REFUSED, "eos_token_id": [2, 7]}
