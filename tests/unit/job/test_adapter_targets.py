"""An entry of target_modules that matches nothing is refused, although PEFT ignores it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.tiny_models import make_model
from tuneyard.errors import InvalidValuesError
from tuneyard.network.model import add_adapter, load_base
from tuneyard.values.adapters import PeftConf, QuantConf


@pytest.fixture
def base(tmp_path):
    return load_base(make_model(tmp_path / "base"), QuantConf(), "cpu", where="base", dtype="float32", arguments={})


def adapt(base, kwargs):
    conf = PeftConf(peft_type="LORA", peft_kwargs=kwargs)
    return add_adapter(base, conf, Path(base.name_or_path), gradient_checkpointing=False)


def test_one_entry_of_several_that_matches_nothing_is_refused_by_its_place(base):
    with pytest.raises(InvalidValuesError, match="matches no module") as caught:
        adapt(base, {"r": 2, "target_modules": ["q_proj", "query"]})
    assert [problem.where.rpartition(".")[2] for problem in caught.value.problems] == ["target_modules[1]"]
    assert "q_proj" in caught.value.hint


@pytest.mark.parametrize("targets", [".*query.*", "q_projj"])
def test_a_pattern_that_matches_nothing_is_refused(base, targets):
    with pytest.raises(InvalidValuesError, match=r"target_modules .* matches no module"):
        adapt(base, {"r": 2, "target_modules": targets})


def test_missing_modules_to_save_are_refused(base):
    kwargs = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["head"]}
    with pytest.raises(InvalidValuesError, match=r"modules_to_save\[0\]"):
        adapt(base, kwargs)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*\.1\.self_attn\.q_proj", None])
def test_matching_modules_are_adapted(base, targets):
    adapted = adapt(base, {"r": 2, "target_modules": targets})
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
