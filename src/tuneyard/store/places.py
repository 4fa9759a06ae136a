"""Where things lie in a store: for each, the key of the manifest that makes it visible. The one place that knows.

    <model>/.tuneyard/manifest.json            a delivered model: names the files below <model>/
    <folder>/.tuneyard/<file>.manifest.json    a delivered dataset: names <folder>/<file> alone
    <folder>/manifest.json                     a checkpoint or final model of a run: names the files beside it

A delivery in progress keeps its journal beside its manifest. Keys are `bucket/path/in/bucket` without a `/` at the end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tuneyard.errors import NotFoundError
from tuneyard.store.manifest import Kind, Manifest, read_manifest
from tuneyard.store.objects import Store

OWN_FOLDER = ".tuneyard"
"""The folder of manifests and journals, below a delivered model's key or beside a dataset."""

MANIFEST = "manifest.json"
_JOURNAL = "delivering.json"

# A bucket is never a model or a folder of datasets: a manifest or journal at its top must not speak for all of it.
_NAMES = "|".join(map(re.escape, (MANIFEST, _JOURNAL)))
_DELIVERED = re.compile(rf"(?P<above>[^/]+/.+)/{re.escape(OWN_FOLDER)}/(?:(?P<file>[^/]+)\.)?(?P<name>{_NAMES})")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one thing lies.

    Attributes:
        kind: What it is.
        key: The model's or checkpoint's key, or the dataset's own.
        prefix: What its manifest's paths are relative to; ends with a `/`.
        manifest_key: The manifest's key.
        journal_key: The key of a delivery's journal; empty for what a run publishes.
    """

    kind: Kind
    key: str
    prefix: str
    manifest_key: str
    journal_key: str = ""


def place_of_model(key: str) -> Place:
    """Return where a delivered model lies."""
    own = f"{key}/{OWN_FOLDER}"
    return Place("model", key, f"{key}/", f"{own}/{MANIFEST}", f"{own}/{_JOURNAL}")


def place_of_dataset(key: str) -> Place:
    """Return where a delivered dataset lies."""
    folder, _, name = key.rpartition("/")
    own = f"{folder}/{OWN_FOLDER}/{name}"
    return Place("dataset", key, f"{folder}/", f"{own}.{MANIFEST}", f"{own}.{_JOURNAL}")


def place_of_result(key: str, kind: Kind = "final") -> Place:
    """Return where a checkpoint or a final model of a run lies."""
    return Place(kind, key, f"{key}/", f"{key}/{MANIFEST}")


def places_of_model(key: str) -> tuple[Place, Place]:
    """Return where the manifest of a model at a key may lie: where one is delivered, then where a run publishes."""
    return place_of_model(key), place_of_result(key)


def place_with_manifest(key: str) -> Place | None:
    """Return the delivered model or dataset whose manifest has this key; None for any other key."""
    return _delivered(key, MANIFEST)


def place_with_journal(key: str) -> Place | None:
    """Return the model or dataset whose delivery has its journal under this key; None for any other key."""
    return _delivered(key, _JOURNAL)


def find_model_manifest(store: Store, key: str) -> Manifest | None:
    """Read the manifest of the model at a key, be it delivered or published by a run; None where there is none.

    Raises:
        IntegrityError: It is damaged.
    """
    for place in places_of_model(key):
        try:
            return read_manifest(store, place.manifest_key)
        except NotFoundError:
            continue
    return None


def _delivered(key: str, name: str) -> Place | None:
    match = _DELIVERED.fullmatch(key)
    if match is None or match["name"] != name:
        return None
    return place_of_dataset(f"{match['above']}/{match['file']}") if match["file"] else place_of_model(match["above"])
