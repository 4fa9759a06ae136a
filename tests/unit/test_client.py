"""The client's own parts: what it holds, previews of launches, schemas, and a cluster without a store of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import tuneyard


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEYARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TUNEYARD_STORE", raising=False)
    monkeypatch.delenv("TUNEYARD_ON", raising=False)


def test_a_client_shows_its_target_and_store() -> None:
    assert repr(tuneyard.Client(store="folder")) == "Client(on='local', store='folder')"


def test_a_preview_has_the_resolved_values_and_launches_nothing(tmp_path: Path) -> None:
    values = {"modelID": "org/tiny", "bucketModelPath": "default-bucket/models/tiny"}
    found = tuneyard.preview("deliver", values=values, store=tmp_path / "store")
    assert (found.verb, found.name) == ("deliver", "tiny")
    assert found.values["bucketModelPath"] == "default-bucket/models/tiny"
    assert found.values["imagePullPolicy"] == "IfNotPresent", "defaults are filled in"
    assert found.to_dict().keys() == {"verb", "name", "store", "values"}
    assert tuneyard.runs() == []


@pytest.mark.parametrize("method", ["schema", "resolve_values"])
def test_an_unknown_kind_of_values_is_a_usage_error(method: str) -> None:
    with pytest.raises(tuneyard.UsageError, match="There are no values of the kind 'train'") as caught:
        getattr(tuneyard, method)("train")
    assert "finetune" in caught.value.hint


def test_each_kind_has_a_closed_schema() -> None:
    for kind in ("namespace", "deliver", "finetune", "serve"):
        assert tuneyard.schema(kind)["additionalProperties"] is False


def test_a_key_in_a_cluster_needs_a_named_store(tmp_path: Path) -> None:
    """This machine's own store may hold the same key, with other content."""
    cluster = tuneyard.Kubernetes(namespace="lab")
    for verb in (tuneyard.verify, tuneyard.gc):
        with pytest.raises(tuneyard.UsageError, match="No store is named"):
            verb("default-bucket/models/tiny", on=cluster)
    with pytest.raises(tuneyard.NotFoundError):
        tuneyard.verify("default-bucket/models/tiny", on=cluster, store=tmp_path / "store")
