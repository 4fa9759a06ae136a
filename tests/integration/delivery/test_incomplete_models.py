"""A model that is not whole is never delivered: refused by name, before it replaces anything, with torch or without."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lab.broken_models import BROKEN, STRUCTURAL, shard
from lab.deliveries import MANIFEST, MODEL, Delivery
from lab.tiny_models import make_model
from tuneyard.errors import InvalidDataError, NotFoundError
from tuneyard.store import read_manifest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model", tied=False)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("how", BROKEN)
def test_an_incomplete_folder_is_refused_by_name_and_nothing_is_transferred(
    delivery: Delivery, model: Path, how: str
) -> None:
    breaks, name = BROKEN[how]
    breaks(model)
    if how in ("no head", "no embedding"):
        name = ".weight"
    with pytest.raises(InvalidDataError) as caught:
        delivery.run(modelID=str(model))
    assert name in str(caught.value)
    assert caught.value.exit_code == 3
    assert delivery.paths() == []


def test_an_incomplete_model_does_not_replace_a_whole_one(delivery: Delivery, model: Path) -> None:
    delivery.run(modelID=str(model))
    before = read_manifest(delivery.store, MANIFEST)
    BROKEN["one projection gone"][0](model)
    with pytest.raises(InvalidDataError):
        delivery.run(modelID=str(model), allowOverwrite=True)
    assert read_manifest(delivery.store, MANIFEST) == before


def test_an_incomplete_model_on_the_hub_is_never_visible(delivery: Delivery, model: Path) -> None:
    BROKEN["one projection gone"][0](model)
    delivery.hub.add_model("org/tiny", files(model))
    with pytest.raises(InvalidDataError, match="q_proj"):
        delivery.run()
    with pytest.raises(NotFoundError):
        read_manifest(delivery.store, MANIFEST)
    fetched = delivery.hub.fetched("model.safetensors")
    with pytest.raises(InvalidDataError, match="q_proj"):
        delivery.run()
    assert delivery.hub.fetched("model.safetensors") == fetched  # what is here is not fetched again


def test_a_complete_model_on_the_hub_in_shards_is_delivered(delivery: Delivery, model: Path) -> None:
    shard(model)
    delivery.hub.add_model("org/tiny", files(model))
    assert delivery.run().model.status == "delivered"
    assert f"{MODEL}/.tuneyard/manifest.json" == MANIFEST


def test_an_exclude_that_leaves_a_shard_out_is_refused_with_its_key(delivery: Delivery, model: Path) -> None:
    shard(model)
    with pytest.raises(InvalidDataError, match="model-00002-of-00003") as caught:
        delivery.run(modelID=str(model), downloadExcludeGlob="*-00002-*")
    assert "downloadExcludeGlob" in caught.value.hint


@pytest.mark.parametrize("how", STRUCTURAL)
def test_an_image_without_torch_finds_what_names_and_shapes_reveal(
    delivery: Delivery, model: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    BROKEN[how][0](model)
    if how in ("no head", "no embedding"):
        from lab.broken_models import configure

        configure(model, tie_word_embeddings=False)
    with pytest.raises(InvalidDataError):
        delivery.run(modelID=str(model))
    assert delivery.paths() == []


def test_an_unknown_architecture_is_delivered_with_a_notice(
    delivery: Delivery, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from lab.broken_models import configure

    caplog.set_level("INFO", "tuneyard")
    configure(model, architectures=["TomorrowsForCausalLM"])
    delivery.run(modelID=str(model))
    assert "has no architecture 'TomorrowsForCausalLM'" in caplog.text
