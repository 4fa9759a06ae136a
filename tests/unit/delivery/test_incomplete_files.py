"""A model that lacks a file of its own is incomplete; one whose files lead elsewhere is not to be trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuneyard.delivery import vet_model
from tuneyard.errors import InvalidDataError

INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


def vetted(folder: Path, *weights: str, there: list[str] = SHARDS) -> InvalidDataError | None:
    """Vet a model whose index names some files, and give what was raised."""
    (folder / "config.json").write_text("{}")
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {f"layer.{place}": file for place, file in enumerate(weights)}})
    )
    try:
        vet_model(folder, ["config.json", INDEX, *there], where="default-bucket/models/m")
    except InvalidDataError as error:
        return error
    return None


def test_a_whole_model_passes(tmp_path: Path) -> None:
    assert vetted(tmp_path, *SHARDS) is None
    assert vetted(tmp_path, "deep/a.safetensors", there=["deep/a.safetensors"]) is None


@pytest.mark.parametrize(
    ("names", "there"),
    [
        (SHARDS, SHARDS[:2]),
        (SHARDS, []),
        (["deep/a.safetensors"], ["a.safetensors"]),
        (["odd..name.safetensors"], []),
    ],
)
def test_a_missing_shard_is_an_incomplete_model(tmp_path: Path, names: list[str], there: list[str]) -> None:
    error = vetted(tmp_path, *names, there=there)
    assert error
    absent = next(name for name in names if name not in there)
    assert error.message == (
        f"The model 'default-bucket/models/m' is incomplete: '{INDEX}' names a file that is missing ({absent!r})."
    )
    assert error.hint == "Deliver it again, and check that downloadExcludeGlob leaves none of its weights out."
    assert [problem.value for problem in error.problems] == [repr(name) for name in names if name not in there]
    assert error.exit_code == 3


@pytest.mark.parametrize(
    "name",
    [
        "/etc/model.safetensors",
        "../other/model.safetensors",
        "deep/../../model.safetensors",
        "./model.safetensors",
        "~/model.safetensors",
        "https://evil.example/model.safetensors",
        "org/name@main:model.safetensors",
        "C:\\model.safetensors",
        "deep\\model.safetensors",
        "model.bin",
        "model.safetensors\x00",
    ],
)
def test_a_name_that_leads_elsewhere_is_suspicious(tmp_path: Path, name: str) -> None:
    error = vetted(tmp_path, *SHARDS, name, there=SHARDS[:1])
    assert error
    assert "is not plain weights and settings" in error.message
    assert "don't trust the origin of this one" in error.hint
    assert [problem.value for problem in error.problems] == [repr(name)]


def test_an_adapter_without_its_weights_is_incomplete(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(
        InvalidDataError, match=r"is incomplete: .adapter_config\.json. has no adapter_model\.safetensors"
    ):
        vet_model(tmp_path, ["adapter_config.json"], where="an adapter")
