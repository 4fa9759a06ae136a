"""Entries of a base's config that an adapter's manifest brings: plain settings pass, and nothing that decides more."""

import pytest

from tuneyard.errors import InvalidDataError
from tuneyard.models import IDENTITY, OF_THE_LOADER, read_entries, without_dropout

ROTATION = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "max_position_embeddings": 4096}


def test_settings_of_numbers_texts_and_lists_are_read():
    entries = {**ROTATION, "layer_types": ["full_attention"], "use_sliding_window": True, "sliding_window": None}
    assert read_entries({"config": entries}, where="a") == entries
    assert read_entries({"type": "adapter"}, where="a") == {}


REFUSED = [
    *IDENTITY,
    *sorted(OF_THE_LOADER),
    "trust_remote_code",
    "use_safetensors",
    "gguf_file",
    "subfolder",
    "device_map",
]


@pytest.mark.parametrize("name", [*REFUSED, "_attn_implementation", "__class__", "Auto", "a.b", ""])
def test_an_entry_that_names_code_or_files_is_refused_by_name_at_any_depth(name):
    for entries in ({name: "x"}, {"text_config": {name: "x"}}, {"parts": [{"inner": {name: "x"}}]}):
        with pytest.raises(InvalidDataError, match="settings of its base that can't be used") as caught:
            read_entries({"config": entries}, where="bucket/a")
        assert "bucket/a" in caught.value.message
        assert caught.value.exit_code == 3
        assert name in caught.value.problems[0].where


@pytest.mark.parametrize(
    "config",
    [["a"], "text", 1, {"rope_theta": float("nan")}, {"rope_theta": float("inf")}, {"x": "y" * 70_000}, {1: 2}],
)
def test_anything_but_a_mapping_of_plain_values_is_refused(config):
    with pytest.raises((InvalidDataError, TypeError)):
        read_entries({"config": config}, where="a")


def test_every_argument_of_the_librarys_own_loading_is_refused():
    """`from_pretrained` takes entries of a config among its own arguments: none of those may come from a bucket."""
    import ast
    import inspect
    import textwrap

    from transformers import PreTrainedModel

    source = textwrap.dedent(inspect.getsource(PreTrainedModel.from_pretrained))
    popped = {
        call.args[0].value
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "pop"
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "kwargs"
        and isinstance(call.args[0], ast.Constant)
    }
    named = set(inspect.signature(PreTrainedModel.from_pretrained).parameters) - {
        "cls", "model_args", "kwargs", "pretrained_model_name_or_path",
    }  # fmt: skip
    assert len(popped) > 15
    for name in {str(one) for one in popped} | named:
        with pytest.raises(InvalidDataError):
            read_entries({"config": {name: "x"}}, where="a")


def test_dropout_has_no_effect_on_an_answer():
    assert without_dropout({"attention_dropout": 0.3, "resid_pdrop": 0.1, **ROTATION}) == ROTATION
