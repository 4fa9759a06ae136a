"""Where manifests and journals lie: the bucket's layout, which never changes, and the way back from a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.errors import IntegrityError
from tuneyard.store import (
    FileEntry,
    Manifest,
    Place,
    find_model_manifest,
    open_store,
    place_of_dataset,
    place_of_model,
    place_of_result,
    place_with_journal,
    place_with_manifest,
    write_manifest,
)

MODEL = Place(
    kind="model",
    key="bucket/models/m",
    prefix="bucket/models/m/",
    manifest_key="bucket/models/m/.tuneyard/manifest.json",
    journal_key="bucket/models/m/.tuneyard/delivering.json",
)
DATASET = Place(
    kind="dataset",
    key="bucket/data/d.jsonl",
    prefix="bucket/data/",
    manifest_key="bucket/data/.tuneyard/d.jsonl.manifest.json",
    journal_key="bucket/data/.tuneyard/d.jsonl.delivering.json",
)


def test_each_kind_has_its_manifest_and_journal_where_buckets_have_them() -> None:
    assert place_of_model("bucket/models/m") == MODEL
    assert place_of_dataset("bucket/data/d.jsonl") == DATASET
    assert place_of_result("bucket/x/run/checkpoint-final") == Place(
        "final",
        "bucket/x/run/checkpoint-final",
        "bucket/x/run/checkpoint-final/",
        "bucket/x/run/checkpoint-final/manifest.json",
    )
    assert place_of_result("bucket/x/run/checkpoint-4-1", "checkpoint").kind == "checkpoint"


@pytest.mark.parametrize("place", [MODEL, DATASET], ids=["model", "dataset"])
def test_a_manifest_or_journal_key_leads_back_to_its_place(place: Place) -> None:
    assert place_with_manifest(place.manifest_key) == place
    assert place_with_journal(place.journal_key) == place
    assert place_with_manifest(place.journal_key) is None
    assert place_with_journal(place.manifest_key) is None


@pytest.mark.parametrize(
    "key",
    [
        "bucket/.tuneyard/manifest.json",
        "bucket/.tuneyard/d.jsonl.manifest.json",
        "bucket/models/m/manifest.json",
        "bucket/models/m/xtuneyard/manifest.json",
        "bucket/models/m/.tuneyard/manifestxjson",
        "bucket/models/m/.tuneyard/sub/d.jsonl.manifest.json",
        "bucket/models/m/.tuneyard/manifest.json/x",
    ],
)
def test_other_keys_lead_to_no_place(key: str) -> None:
    assert place_with_manifest(key) is None


def test_a_delivered_manifest_takes_precedence_over_a_published_one(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    assert find_model_manifest(store, "bucket/models/m") is None
    published = Manifest("final", (FileEntry("a", 1, "a" * 64),))
    write_manifest(store, "bucket/models/m/manifest.json", published)
    assert find_model_manifest(store, "bucket/models/m") == published
    store.put("bucket/models/m/.tuneyard/manifest.json", b"{")
    with pytest.raises(IntegrityError, match="is not JSON"):
        find_model_manifest(store, "bucket/models/m")
