"""The names of served models."""

from __future__ import annotations

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.serving.placement import base_name, check_distinct, own_name, served_names


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("default-bucket/models/tiny-llama", "tiny-llama"),
        ("default-bucket/experiments/lora-16/checkpoint-final", "lora-16"),
        ("default-bucket/experiments/lora-16/checkpoint-final-merged", "lora-16"),
        ("bucket/checkpoint-final", "the-run"),
        ("/home/someone/models/tiny/", "tiny"),
    ],
)
def test_model_is_named_by_the_distinctive_part_of_its_key(where, name):
    assert own_name(where, {"run": "the-run"}) == name


def test_base_name_differs_from_its_adapter_s():
    assert base_name("b/models/tiny", taken=["tuned"]) == "tiny"
    assert base_name("b/models/tiny", taken=["tiny", "base-tiny"]) == "base-base-tiny"


def test_served_model_name_is_read_as_in_vllm():
    assert served_names(None) == served_names("") == ()
    assert served_names("one") == ("one",)
    assert served_names(["one", "two"]) == ("one", "two")
    for wrong in (True, {"a": 1}, ["one", ""], 0.5):
        with pytest.raises(InvalidValuesError, match="served_model_name"):
            served_names(wrong)


def test_same_name_for_two_models_is_refused():
    with pytest.raises(InvalidValuesError, match="'same'"):
        check_distinct(["a", "same", "same"])
    check_distinct(["a", "b"])
