"""Published files for serving: generation settings, and the published adapter that a later merge loads."""

import json
import pickle
from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from lab.tiny_models import make_model
from lab.training import REMOTE, VALUES, changed
from tuneyard.checkpoints import Experiment, RunRecord
from tuneyard.errors import InvalidDataError
from tuneyard.network.model import load_base
from tuneyard.store import open_store
from tuneyard.train.final import merge_later, set_generation
from tuneyard.values import FinetuneValues
from tuneyard.values.adapters import QuantConf

REFUSED = {"temperature": 0.2, "top_p": 0.9, "eos_token_id": 2}


def test_a_model_with_settings_that_transformers_refuses_to_write_can_be_saved(tmp_path):
    base = make_model(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(REFUSED))
    load_base(base, QuantConf(), "cpu", where="base", dtype="float32", arguments={}).save_pretrained(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved")


def test_the_stop_token_joins_the_settings_and_nothing_else_of_them_changes(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps(REFUSED))
    set_generation(SimpleNamespace(eos_token_id=7), tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {**REFUSED, "eos_token_id": [2, 7]}


class Canary:
    """Leaves a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_merge_vets_the_published_adapter_before_loading_it(tmp_path):
    """The adapter comes from a bucket: anyone with write access may have added a pickle, with a manifest."""
    base = make_model(tmp_path / "base")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", r=2))
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(pickle.dumps(Canary(tmp_path / "canary")))
    store = open_store((tmp_path / "store").as_uri())
    record = RunRecord("run", {}, "0" * 64, {}, {}, {})
    Experiment(store, REMOTE).claim(record).publish_final(tmp_path / "adapter", "checkpoint-final", {"type": "adapter"})
    values = FinetuneValues.model_validate(changed(VALUES, mergeAdapter=True))
    prepared = SimpleNamespace(inputs=SimpleNamespace(record=lambda _: record), base_folder=str(base))
    with pytest.raises(InvalidDataError, match=r"checkpoint-final' is not plain weights.*adapter_model.bin"):
        merge_later(values, prepared, store, tmp_path / "work")
    assert not (tmp_path / "canary").exists()
