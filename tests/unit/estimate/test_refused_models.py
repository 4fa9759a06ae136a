"""A plan refuses a model that is incomplete or requires code, as training does."""

from __future__ import annotations

import json
import shutil

import pytest

from lab.broken_models import BROKEN
from lab.hostile_models import hostile_models
from lab.tiny_models import make_model
from lab.training import MODEL, VALUES, deliver_inputs
from tuneyard.delivery import vet_model
from tuneyard.errors import IncompleteModelError, InvalidDataError, TuneyardError
from tuneyard.estimate import estimate
from tuneyard.store import open_store
from tuneyard.values import FinetuneValues

HOSTILE = [model for model in hostile_models() if not model.adapter]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "whole", tied=False)


def plan(folder, store):
    deliver_inputs(store, folder=folder)
    return estimate(FinetuneValues.model_validate(VALUES), open_store(store.as_uri()))


@pytest.mark.parametrize("how", BROKEN)
def test_mismatched_weights_are_named(how, whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    breaks, name = BROKEN[how]
    breaks(folder)
    with pytest.raises(InvalidDataError) as caught:
        plan(folder, tmp_path / "store")
    assert name in str(caught.value) or how == "no embedding"  # which of two matrices is missing shows later
    assert MODEL in caught.value.message
    assert caught.value.exit_code == 3
    if not how.endswith("missing") and how != "index without a shard":
        assert isinstance(caught.value, IncompleteModelError)


def test_missing_layers_are_named_before_any_is_built(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))
    with pytest.raises(IncompleteModelError, match="declares 1000000000 layers"):
        plan(folder, tmp_path / "store")


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=pytest.mark.soak if model.soak else ()) for model in HOSTILE],
    ids=[model.name.replace("/", "|").replace("\\", "|") for model in HOSTILE],
)
def test_no_model_runs_code_in_a_plan(model, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, canary = shutil.copytree(whole, tmp_path / "model"), tmp_path / "canary"
    model.change(folder, f"open({str(canary)!r}, 'w').close()")
    paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    refusal = None
    try:
        vet_model(folder, paths, where=MODEL)
    except InvalidDataError as error:
        refusal = error.message
    found = None
    try:
        plan(folder, tmp_path / "store")
    except TuneyardError as error:
        found = error
    assert not canary.exists()
    if refusal is not None:
        assert found is not None
        assert found.message == refusal
    elif found is not None:
        assert found.exit_code in (3, 4, 7)
