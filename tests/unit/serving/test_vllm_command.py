"""The command and the environment that vLLM is started with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.serving.guard import RequireKey
from tuneyard.serving.placement import Adapter, Placement, Weights
from tuneyard.serving.vllm import GUARD, build_command, build_environment
from tuneyard.values import InferenceValues

LORA = {"peft_type": "LORA", "r": 24, "bias": "none", "modules_to_save": None, "use_dora": False}


def placement(tmp_path: Path, *configs: dict[str, Any]) -> Placement:
    adapters = []
    for number, config in enumerate(configs):
        folder = tmp_path / f"adapter-{number}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        adapters.append(Adapter((f"tuned-{number}",), Weights(f"b/{number}", folder, "0" * 64, {})))
    model = Weights("b/base", tmp_path / "base", "1" * 64, {})
    return Placement(model, ("base",), tuple(adapters), adapters[0].names if adapters else ("base",))


def command(where: Placement, *, guarded: bool = True, on_cpu: bool = False, **more: Any) -> list[str]:
    values = InferenceValues.model_validate({"model": "s3://bucket/models/base", **more})
    return build_command(values, where, host="127.0.0.1", port=8081, guarded=guarded, on_cpu=on_cpu, finish_seconds=45)


def following(words: list[str], flag: str) -> list[str]:
    rest = words[words.index(flag) + 1 :]
    end = next((at for at, word in enumerate(rest) if word.startswith("--")), len(rest))
    return rest[:end]


def test_command_has_model_names_host_port_and_guard(tmp_path):
    words = command(placement(tmp_path))
    assert following(words, "--model") == [str(tmp_path / "base")]
    assert following(words, "--served-model-name") == ["base"]
    assert following(words, "--port") == ["8081"]
    assert "--enable-lora" not in words
    assert following(words, "--middleware") == [GUARD]


def test_middleware_flag_names_the_guard_class():
    assert f"{RequireKey.__module__}.{RequireKey.__qualname__}" == GUARD


def test_open_server_has_no_guard(tmp_path):
    assert "--middleware" not in command(placement(tmp_path), guarded=False)


def test_adapters_come_with_the_lora_limits_they_need(tmp_path):
    words = command(placement(tmp_path, LORA, {**LORA, "r": 4}))
    modules = [json.loads(word) for word in following(words, "--lora-modules")]
    assert [(module["name"], module["base_model_name"]) for module in modules] == [
        ("tuned-0", "base"),
        ("tuned-1", "base"),
    ]
    assert "--enable-lora" in words
    assert following(words, "--max-loras") == ["2"]
    assert following(words, "--max-lora-rank") == ["32"]


def test_tokenizer_of_the_adapter_is_used(tmp_path):
    where = placement(tmp_path, LORA)
    assert "--tokenizer" not in command(where)
    folder = where.adapters[0].weights.folder
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").write_text("{}")
    words = command(where)
    assert following(words, "--tokenizer") == [str(folder)]
    assert following(words, "--generation-config") == [str(folder)]


def test_flags_are_written_for_vllm_and_override_defaults(tmp_path):
    flags = {
        "max-model-len": 512,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "allowed_origins": ["*"],
        "override_generation_config": {"temperature": 0.5},
        "max_lora_rank": 64,
        "quantization": None,
        "served_model_name": "elsewhere",
    }
    words = command(placement(tmp_path, LORA), vllm_engine_args=flags)
    assert following(words, "--max-model-len") == ["512"]
    assert "--enforce-eager" in words
    assert "--no-enable-prefix-caching" in words
    assert following(words, "--allowed-origins") == ["*"]
    assert json.loads(following(words, "--override-generation-config")[0]) == {"temperature": 0.5}
    assert following(words, "--max-lora-rank") == ["64"]
    assert words.count("--max-lora-rank") == 1
    assert "elsewhere" not in words
    assert following(words, "--served-model-name") == ["base"]


def test_several_accelerators_set_tensor_parallelism(tmp_path):
    assert following(command(placement(tmp_path), gpus=4), "--tensor-parallel-size") == ["4"]
    assert "--tensor-parallel-size" not in command(placement(tmp_path), gpus=4, on_cpu=True)


@pytest.mark.parametrize(
    "config",
    [
        {**LORA, "modules_to_save": ["lm_head"]},
        {**LORA, "use_dora": True},
        {**LORA, "bias": "all"},
        {**LORA, "peft_type": "IA3"},
    ],
)
def test_adapter_that_vllm_can_not_serve_is_refused_with_an_alternative(tmp_path, config):
    with pytest.raises(InvalidValuesError, match="vLLM can't serve") as caught:
        command(placement(tmp_path, config))
    assert "mergeAdapter=true" in caught.value.hint


def test_flags_that_tuneyard_sets_are_refused(tmp_path):
    with pytest.raises(InvalidValuesError, match=r"vllm_engine_args\.port"):
        command(placement(tmp_path), vllm_engine_args={"port": 1})


def test_key_is_in_the_environment_and_not_in_the_command(tmp_path):
    values = InferenceValues.model_validate({"model": "s3://bucket/models/base"})
    environment = build_environment(values, "s3cret", {"PATH": "/bin"})
    assert environment["VLLM_API_KEY"] == environment["TUNEYARD_API_KEY"] == "s3cret"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert not [word for word in command(placement(tmp_path)) if "s3cret" in word]
    assert "VLLM_API_KEY" not in build_environment(values, "", {})


def test_shutdown_timeout_lets_running_answers_end(tmp_path):
    assert following(command(placement(tmp_path)), "--shutdown-timeout") == ["45"]
    assert following(command(placement(tmp_path), vllm_engine_args={"shutdown_timeout": 3}), "--shutdown-timeout") == [
        "3"
    ]


def test_config_entries_of_training_are_merged_into_hf_overrides(tmp_path):
    where = replace(placement(tmp_path, LORA), config={"rope_theta": 50.0})
    for given in ({"sliding_window": 8}, '{"sliding_window": 8}'):
        words = command(where, vllm_engine_args={"hf_overrides": given})
        assert json.loads(following(words, "--hf-overrides")[0]) == {"rope_theta": 50.0, "sliding_window": 8}
        assert words.count("--hf-overrides") == 1
    assert json.loads(following(command(where), "--hf-overrides")[0]) == {"rope_theta": 50.0}
    with pytest.raises(
        InvalidValuesError, match=r"hf_overrides\.rope_theta: differs from what b/0 was trained with"
    ) as caught:
        command(where, vllm_engine_args={"hf_overrides": {"rope_theta": 7.0}})
    assert caught.value.exit_code == 3
    assert "--hf-overrides" not in command(placement(tmp_path))
