"""The checks of a model's files before they are loaded: each rule by itself, and a plain model passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuneyard.delivery import vet_model
from tuneyard.delivery.selection import UNSAFE
from tuneyard.errors import InvalidDataError

LORA = {"peft_type": "LORA", "r": 4, "inference_mode": True}
PLAIN: dict[str, Any] = {
    "config.json": {"model_type": "llama", "text_config": {"attn_implementation": "eager"}},
    "generation_config.json": {"do_sample": False},
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": [None, "own.Tokenizer"]}, "trust_remote_code": False},
    "model.safetensors.index.json": {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}},
    "model-1.safetensors": b"1",
    "model-2.safetensors": b"2",
    "own.py": b"print('never run')",
    "sub/model.safetensors.index.json": {"weight_map": {"a": "part.safetensors"}},
    "sub/part.safetensors": b"3",
}
ADAPTER: dict[str, Any] = {"adapter_config.json": LORA, "adapter_model.safetensors": b"1"}


def vet(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    vet_model(folder, list(files), where="bucket/models/tiny")


def refused(folder: Path, files: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidDataError) as error:
        vet(folder, files)
    assert error.value.exit_code == 3
    assert "bucket/models/tiny" in error.value.message
    assert error.value.hint
    return [(problem.where, problem.what) for problem in error.value.problems]


@pytest.mark.parametrize("files", [PLAIN, ADAPTER, {"config.json": {}}, {}], ids=["model", "adapter", "bare", "none"])
def test_plain_files_are_accepted(tmp_path: Path, files: dict[str, Any]) -> None:
    vet(tmp_path, files)


@pytest.mark.parametrize("kind", ["LORA", "VERA", "IA3", "PROMPT_TUNING"])
def test_supported_adapters_are_accepted(tmp_path: Path, kind: str) -> None:
    vet(tmp_path, {**ADAPTER, "adapter_config.json": {**LORA, "peft_type": kind}})


@pytest.mark.parametrize("ending", [*UNSAFE, ".BIN", ".bin.index.json"])
def test_a_format_that_can_run_code_is_refused(tmp_path: Path, ending: str) -> None:
    found = refused(tmp_path, {**PLAIN, f"sub/weights{ending}": b"{}"})
    assert found == [(f"sub/weights{ending}", "is in a format that can run code when loaded")]


COMPILED = "names compiled code in a repository"
SETTINGS = {
    "trust_remote_code": ({"trust_remote_code": True}, "trusts a repository's code"),
    "trust_remote_code as text": ({"trust_remote_code": "yes"}, "trusts a repository's code"),
    "an attention kernel": ({"attn_implementation": "org/kernel"}, COMPILED),
    "an attention kernel of a revision": ({"_attn_implementation": "kernel@main"}, COMPILED),
    "an attention kernel's function": ({"_attn_implementation_internal": "kernel:f"}, COMPILED),
    "an attention kernel in a folder": ({"attn_implementation": "..\\kernel"}, COMPILED),
    "attention kernels for parts": (
        {"attn_implementation": {"": "eager", "text_config": "org/kernel"}},
        COMPILED,
    ),
    "a kernel of experts": ({"experts_implementation": "org/kernel"}, COMPILED),
    "code that generates": ({"custom_generate": "org/code"}, "names code for generation"),
}  # fmt: skip


@pytest.mark.parametrize("depth", ["at the top", "in a map", "in a list"])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("rule", SETTINGS)
def test_settings_that_name_code_are_refused(tmp_path: Path, rule: str, file: str, depth: str) -> None:
    settings, what = SETTINGS[rule]
    placed = {"at the top": settings, "in a map": {"a": {"b": settings}}, "in a list": {"a": [1, [settings]]}}[depth]
    assert refused(tmp_path, {**PLAIN, file: placed}) == [(file, what)]


@pytest.mark.parametrize("rule", SETTINGS)
def test_settings_of_an_adapter_that_name_code_are_refused(tmp_path: Path, rule: str) -> None:
    settings, what = SETTINGS[rule]
    assert refused(tmp_path, {**ADAPTER, "adapter_config.json": {**LORA, **settings}}) == [
        ("adapter_config.json", what)
    ]


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"{", b'{"a":' * 60_000], ids=["empty", "binary", "cut", "deep"])
@pytest.mark.parametrize("file", ["config.json", "adapter_config.json", "model.safetensors.index.json"])
def test_settings_that_are_not_json_are_refused(tmp_path: Path, file: str, body: bytes) -> None:
    assert (file, "is not JSON") in refused(tmp_path, {**PLAIN, **ADAPTER, file: body})


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_settings_that_are_not_an_object_are_refused(tmp_path: Path, file: str) -> None:
    assert refused(tmp_path, {**PLAIN, file: b"[]"}) == [(file, "is not a JSON object")]


def test_too_large_settings_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(InvalidDataError, match="is larger than 67108864 bytes"):
        vet_model(tmp_path, ["config.json"], where="bucket/models/tiny")


@pytest.mark.parametrize(
    "elsewhere",
    ["../outside.safetensors", "/etc/passwd", "own.py", "https://x/y.safetensors"],
)
def test_an_index_that_names_weights_of_another_model_is_refused(tmp_path: Path, elsewhere: str) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": elsewhere}}
    files = {key: value for key, value in PLAIN.items() if not key.startswith("sub/")}
    found = refused(tmp_path, {**files, "model.safetensors.index.json": index})
    assert found == [("model.safetensors.index.json", "names weights other than the model's own safetensors")]


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": None}])
def test_an_index_without_weights_is_refused(tmp_path: Path, index: dict[str, Any]) -> None:
    found = refused(tmp_path, {**PLAIN, "model.safetensors.index.json": index})
    assert found == [("model.safetensors.index.json", "has no weight_map")]


ADAPTERS = {
    "another kind": ({"peft_type": "XLORA"}, "is of a type that can't be loaded"),
    "no kind": ({"peft_type": None}, "is of a type that can't be loaded"),
    "a kind that is no text": ({"peft_type": ["LORA"]}, "is of a type that can't be loaded"),
    "a prompt that begins anew": (
        {"peft_type": "PROMPT_TUNING", "inference_mode": False},
        "would initialize its prompt",
    ),
    "a package": ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "names a package to import"),
}  # fmt: skip


@pytest.mark.parametrize("rule", ADAPTERS)
def test_an_adapter_that_would_load_more_than_itself_is_refused(tmp_path: Path, rule: str) -> None:
    settings, what = ADAPTERS[rule]
    found = refused(tmp_path, {**ADAPTER, "adapter_config.json": {**LORA, **settings}})
    assert found == [("adapter_config.json", what)]


def test_an_adapter_without_weights_beside_it_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, {"adapter_config.json": LORA})
    assert found == [("adapter_config.json", "has no adapter_model.safetensors beside it")]


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    files = {**PLAIN, "w.pkl": b"", "config.json": {"trust_remote_code": True, "custom_generate": "x/y"}}
    assert len(refused(tmp_path, files)) == 3


def test_only_files_in_the_manifest_are_checked(tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(b"")
    vet(tmp_path, PLAIN)
