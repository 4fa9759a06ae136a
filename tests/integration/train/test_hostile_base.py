"""A base model whose files require code is refused before training, and before any of its rows is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lab import serving
from lab.training import MODEL, VALUES, deliver_inputs, train
from tuneyard.errors import InvalidDataError
from tuneyard.job.inputs import find_inputs
from tuneyard.store import open_store
from tuneyard.train.prepare import prepare
from tuneyard.values import FinetuneValues


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a model and a manifest from someone with write access."""
    deliver_inputs(tmp_path / "store")
    folder = tmp_path / "model"
    shutil.copytree(tmp_path / "store" / MODEL, folder, ignore=shutil.ignore_patterns(".tuneyard"))
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attn_implementation": "org/kernel"}))
    serving.put(tmp_path / "store", MODEL, folder, kind="model")
    return tmp_path / "store"


def test_a_base_that_requires_code_is_refused_when_a_training_is_prepared(store: Path, tmp_path: Path) -> None:
    values, opened = FinetuneValues.model_validate(VALUES), open_store(store.as_uri())
    with pytest.raises(InvalidDataError, match="names compiled code in a repository"):
        prepare(values, find_inputs(values, opened), opened, tmp_path / "work", lambda _: None)
    assert not (tmp_path / "work" / "rows").exists()


def test_a_training_on_it_ends_with_3_and_publishes_nothing(store: Path, tmp_path: Path) -> None:
    log = train(VALUES, store, tmp_path / "work", code=3)
    assert "names compiled code in a repository" in log
    assert "Traceback" not in log
