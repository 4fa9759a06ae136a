"""An entry of target_modules that matches nothing is refused, where PEFT would pass over it."""

from __future__ import annotations

import pytest
from tiny_models import make_model

from tuneyard.errors import InvalidValuesError
from tuneyard.train.model import add_adapter, load_base


@pytest.fixture
def base(tmp_path):
    return load_base(make_model(tmp_path / "base"), {}, "cpu", print)


def test_one_entry_of_several_that_matches_nothing_is_refused_by_its_place(base):
    with pytest.raises(InvalidValuesError, match="matches no module") as caught:
        add_adapter(base, {"r": 2, "target_modules": ["q_proj", "query"]}, gradient_checkpointing=False)
    assert [problem.where.rpartition(".")[2] for problem in caught.value.problems] == ["target_modules[1]"]
    assert "q_proj" in caught.value.hint


@pytest.mark.parametrize("targets", [".*query.*", "q_projj"])
def test_a_pattern_that_matches_nothing_is_refused(base, targets):
    with pytest.raises(InvalidValuesError, match=r"target_modules .* matches no module"):
        add_adapter(base, {"r": 2, "target_modules": targets}, gradient_checkpointing=False)


def test_modules_to_save_that_are_not_there_are_refused(base):
    kwargs = {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["head"]}
    with pytest.raises(InvalidValuesError, match=r"modules_to_save\[0\]"):
        add_adapter(base, kwargs, gradient_checkpointing=False)


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"], r".*\.1\.self_attn\.q_proj", None])
def test_what_matches_is_adapted(base, targets):
    adapted = add_adapter(base, {"r": 2, "target_modules": targets}, gradient_checkpointing=False)
    assert any("lora_A" in name for name, _ in adapted.named_parameters())
