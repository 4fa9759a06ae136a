"""A model whose files lack a weight, or hold another, is refused by name wherever it is loaded or looked at."""

import json
import shutil

import pytest

from lab.broken_models import BROKEN, INDEX, STRUCTURAL, configure, shard
from lab.tiny_models import make_model
from tuneyard.errors import IncompleteModelError, InvalidDataError
from tuneyard.models import load_model, outline_model, structure_problems, write_outline
from tuneyard.models.names import grouped


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "whole", tied=False)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def outline(folder, target):
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    return write_outline(files, lambda name: iter([(folder / name).read_bytes()]), target, where="m")


def settings(path):
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize("how", BROKEN)
def test_loading_names_what_does_not_fit(how, folder):
    breaks, name = BROKEN[how]
    breaks(folder)
    with pytest.raises(InvalidDataError) as caught:
        load_model(folder, where="bucket/m")
    assert name in str(caught.value)
    assert "'bucket/m'" in caught.value.message
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("how", BROKEN)
def test_the_outline_of_a_model_shows_the_same_without_its_weights(how, folder, tmp_path):
    breaks, name = BROKEN[how]
    breaks(folder)
    outline(folder, tmp_path / "outline")
    with pytest.raises(InvalidDataError) as caught:
        outline_model(tmp_path / "outline", where="bucket/m")
    assert name in str(caught.value)


@pytest.mark.parametrize("how", BROKEN)
def test_names_and_shapes_alone_show_what_they_can(how, folder, tmp_path):
    breaks, name = BROKEN[how]
    breaks(folder)
    tensors = outline(folder, tmp_path / "outline")
    config = {**settings(folder / "config.json"), "tie_word_embeddings": False}
    found = structure_problems(tensors, settings(folder / INDEX), config)
    assert bool(found) == (how in STRUCTURAL)
    if how in STRUCTURAL and how not in ("no head", "no embedding"):
        assert any(name.rstrip("}") in str(problem) for problem in found)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [True, False])
def test_a_whole_model_is_whole_in_every_way(tied, shards, tmp_path):
    folder = make_model(tmp_path / "model", tied=tied)
    if shards:
        shard(folder)
    tensors = outline(folder, tmp_path / "outline")
    assert structure_problems(tensors, settings(folder / INDEX), settings(folder / "config.json")) == []
    model = load_model(folder, where="m")
    meta = outline_model(tmp_path / "outline", where="m")
    assert {name: tuple(weight.shape) for name, weight in meta.named_parameters()} == {
        name: tuple(weight.shape) for name, weight in model.named_parameters()
    }
    assert {weight.device.type for weight in meta.parameters()} == {"meta"}


def test_an_outline_holds_no_weight(whole, tmp_path):
    outline(whole, tmp_path / "outline")
    stub = tmp_path / "outline/model.safetensors"
    assert stub.stat().st_size == (whole / "model.safetensors").stat().st_size
    assert stub.stat().st_blocks * 512 < 65_536


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"1234", "too short to have a header"),
        (b"\xff" * 64, "header that is too long"),
        ((9).to_bytes(8, "little") + b"not json!", "does not have a safetensors header"),
        ((6).to_bytes(8, "little") + b"[1, 2]", "does not have a safetensors header"),
        ((16).to_bytes(8, "little") + b'{"a": {"no": 1}}', "does not have a safetensors header"),
    ],
)
def test_a_file_that_is_not_safetensors_is_refused_by_name(body, words, tmp_path):
    with pytest.raises(InvalidDataError, match=words) as caught:
        write_outline({"model.safetensors": len(body)}, lambda _: iter([body]), tmp_path, where="bucket/m")
    assert "bucket/m/model.safetensors" in caught.value.message


def test_a_tied_model_needs_no_head_and_an_untied_one_does(folder):
    breaks, _ = BROKEN["no head"]
    breaks(folder)
    with pytest.raises(IncompleteModelError, match=r"lm_head\.weight is missing"):
        load_model(folder, where="m")
    configure(folder, tie_word_embeddings=True)
    assert load_model(folder, where="m").lm_head.weight.isfinite().all()


def test_names_that_differ_in_a_layer_are_one_line():
    names = ["a.0.w", "a.1.w", "a.2.w", "a.4.b", "a.7.b", "head"]
    assert grouped(names) == ["a.{0-2}.w", "a.{4,7}.b", "head"]


def test_a_config_may_declare_any_number_of_layers(whole, tmp_path):
    config = {**settings(whole / "config.json"), "num_hidden_layers": 10**12}
    problems = structure_problems(outline(whole, tmp_path / "outline"), None, config)
    assert [problem.what for problem in problems] == ["is missing: config.json declares 1000000000000 layers"]
