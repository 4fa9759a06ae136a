"""A model in a bucket that lacks a weight, or holds another, is neither trained on nor served, whoever put it there."""

import shutil

import pytest

from lab import serving
from lab.broken_models import BROKEN
from lab.tiny_models import make_model
from lab.training import MODEL, VALUES, deliver_inputs
from tuneyard.delivery import check_folder
from tuneyard.errors import InvalidDataError
from tuneyard.job.inputs import find_inputs
from tuneyard.serving.flags import app_settings
from tuneyard.serving.loading import load_models
from tuneyard.serving.placement import place_models
from tuneyard.store import open_store
from tuneyard.train.prepare import prepare
from tuneyard.values import FinetuneValues, InferenceValues


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "whole", tied=False)


@pytest.fixture
def broken(request, whole, tmp_path):
    breaks, name = BROKEN[request.param]
    folder = shutil.copytree(whole, tmp_path / "model")
    breaks(folder)
    deliver_inputs(tmp_path / "store")
    serving.put(tmp_path / "store", MODEL, folder, kind="model")
    return open_store((tmp_path / "store").as_uri()), name


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_training_on_it_is_refused_with_the_weight_s_name(broken, tmp_path):
    store, name = broken
    values = FinetuneValues.model_validate(VALUES)
    with pytest.raises(InvalidDataError) as caught:
        prepare(values, find_inputs(values, store), store, tmp_path / "work", lambda _: None)
    assert name in str(caught.value)
    assert not (tmp_path / "work" / "rows").exists()


@pytest.mark.parametrize("broken", BROKEN, indirect=True)
def test_neither_server_loads_it(broken, tmp_path):
    store, name = broken
    values = InferenceValues.model_validate({"model": f"s3://{MODEL}"})
    with pytest.raises(InvalidDataError) as caught:
        load_models(place_models(values, store, tmp_path / "work"), app_settings({}), "cpu")
    assert name in str(caught.value)
    with pytest.raises(InvalidDataError) as caught:  # the check before vLLM is started
        placed = place_models(values, store, tmp_path / "other").model
        check_folder(placed.folder, where=placed.where)
    assert name in str(caught.value) or "embed" in name  # which of two matrices is missing shows later
