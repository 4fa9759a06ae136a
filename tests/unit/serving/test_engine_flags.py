"""vLLM's flags in our own server: honoured, ignored, or refused by name."""

from __future__ import annotations

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.serving.flags import NEUTRAL, TUNING, app_settings


def test_flags_that_change_answers_are_honoured():
    settings = app_settings({"dtype": "half", "max_model_len": "4K", "seed": "7", "served_model_name": "x"})
    assert (settings.dtype, settings.max_model_len, settings.seed) == ("float16", 4096, 7)
    assert settings.ignored == ()


@pytest.mark.parametrize(("given", "tokens"), [(512, 512), ("4k", 4000), ("1M", 1 << 20), ("auto", None), (-1, None)])
def test_max_model_len_is_parsed_as_in_vllm(given, tokens):
    assert app_settings({"max_model_len": given}).max_model_len == tokens


def test_engine_tuning_flags_are_listed_as_ignored():
    settings = app_settings({"gpu_memory_utilization": 0.9, "max_num_seqs": 8})
    assert settings.ignored == ("gpu_memory_utilization", "max_num_seqs")


def test_neutral_values_are_accepted():
    for name, values in NEUTRAL.items():
        for value in values:
            assert app_settings({name: value}).ignored == ()


def test_error_names_every_flag_that_can_not_be_honoured():
    flags = {
        "tensor_parallel_size": 2,
        "quantization": "fp8",
        "trust_remote_code": True,
        "chat_template": "/x.jinja",
        "dtype": "int3",
        "max_model_len": "long",
        "seed": 0.5,
        "port": 9,
    }
    with pytest.raises(InvalidValuesError) as caught:
        app_settings(flags)
    assert {problem.where for problem in caught.value.problems} == {f"vllm_engine_args.{name}" for name in flags}
    assert "vllm_engine_args.tensor_parallel_size" in caught.value.message
    assert "install vLLM" in caught.value.hint


def test_no_flag_is_in_two_tables():
    assert not TUNING & set(NEUTRAL)
