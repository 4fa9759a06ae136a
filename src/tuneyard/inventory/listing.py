"""One listing of a key, sorted into parts with a manifest (`store.places`) and leftovers.

Only keys are listed and manifests read; `verifying` reads the bytes. Objects that belong to no place of Tuneyard's are
somebody else's and are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tuneyard.checkpoints import FINAL_NAMES, CheckpointRef, Head, head_key, read_head, record_key
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.store import (
    MANIFEST,
    Kind,
    Manifest,
    ObjectInfo,
    Place,
    Store,
    place_of_dataset,
    place_of_result,
    place_with_journal,
    place_with_manifest,
    read_manifest,
    split_key,
)

Why = Literal["not committed", "not named", "delivery under way"]
"""`not committed`: of a checkpoint without a manifest. `not named`: beside a manifest that does not name it.
`delivery under way`: the journal of a delivery, or an object that arrived since."""


@dataclass(frozen=True, slots=True)
class Part:
    """A model, dataset, checkpoint or final model: whatever has a manifest.

    Attributes:
        key: The key of the model, dataset or checkpoint.
        kind: What it is.
        manifest_key: The key of its manifest.
        prefix: What the manifest's paths are relative to; ends with a `/`.
        manifest: The manifest; None where it can't be read.
        problem: Why it can't be read; empty otherwise.
    """

    key: str
    kind: Kind
    manifest_key: str
    prefix: str
    manifest: Manifest | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object in a place of Tuneyard's that no manifest names.

    Attributes:
        info: The object.
        why: Why no manifest names it.
        touched: When it was last written, or the journal of its delivery.
        checkpoint: The checkpoint that it would belong to; None where it is of none.
        experiment: That checkpoint's or final model's experiment; empty where it is of none.
    """

    info: ObjectInfo
    why: Why
    touched: datetime
    checkpoint: CheckpointRef | None = None
    experiment: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The contents of a key.

    Attributes:
        key: The key that was listed.
        parts: Everything that has a manifest, sorted by key.
        leftovers: Everything that no manifest names, sorted by key.
        experiments: The experiments, identified by HEAD, run.json or a checkpoint.
        sizes: The size of every object in bytes, by key.
    """

    key: str
    parts: tuple[Part, ...]
    leftovers: tuple[Leftover, ...]
    experiments: tuple[str, ...]
    sizes: dict[str, int]


def take_inventory(store: Store, key: str) -> Inventory:
    """List the objects under a key, and read the manifests.

    Args:
        store: The store.
        key: A bucket, an experiment, a model, a folder of any of these, or a dataset.

    Raises:
        NotFoundError: There are none.
        UnavailableError, DeniedError: The store can't be reached, or denies access.
    """
    key = key.strip("/")
    objects = list(store.list(f"{key}/")) or _one_file(store, key)
    if not objects:
        raise NotFoundError(
            f"There is nothing under '{key}' in '{store.url}'.",
            hint="A key is BUCKET/PATH, such as default-bucket/experiments/NAME.",
            key=key,
        )
    parts = [part for info in objects if (part := _part(store, info.key))]
    return Inventory(
        key=key,
        parts=tuple(parts),
        leftovers=tuple(_leftovers(objects, parts)),
        experiments=tuple(_experiments(objects)),
        sizes={info.key: info.size for info in objects},
    )


def _one_file(store: Store, key: str) -> list[ObjectInfo]:
    if key.count("/") < 2:
        return []
    split_key(key)
    found: list[ObjectInfo] = []
    for one in (key, place_of_dataset(key).manifest_key):
        try:
            found.append(store.head(one))
        except NotFoundError:
            continue
    return found


def _part(store: Store, key: str) -> Part | None:
    place = place_with_manifest(key) or _published(key)
    if place is None:
        return None
    try:
        manifest = read_manifest(store, key)
    except IntegrityError as error:
        return Part(place.key, place.kind, key, place.prefix, None, error.message)
    except NotFoundError:  # deleted since it was listed
        return None
    return Part(place.key, place.kind, key, place.prefix, manifest)


def _published(manifest_key: str) -> Place | None:
    folder, _, file = manifest_key.rpartition("/")
    experiment, _, name = folder.rpartition("/")
    if file != MANIFEST or "/" not in experiment:  # an experiment is never a whole bucket
        return None
    if name in FINAL_NAMES:
        return place_of_result(folder)
    return place_of_result(folder, "checkpoint") if CheckpointRef.from_name(experiment, name) else None


def _leftovers(objects: Sequence[ObjectInfo], parts: Sequence[Part]) -> Iterator[Leftover]:
    named = {part.prefix + entry.path for part in parts if part.manifest for entry in part.manifest.files}
    named |= {part.manifest_key for part in parts}
    places = {part.prefix: part for part in parts if part.kind != "dataset"}
    experiments = set(_experiments(objects))
    journals = {subject: info.modified for info in objects if (subject := _subject_of_journal(info.key))}
    for info in objects:
        folder, checkpoint = _checkpoint_of(info.key)
        if info.key in named:
            continue
        if folder:
            part = places.get(f"{folder}/")
            if part is None or part.manifest:
                why: Why = "not named" if part else "not committed"
                yield Leftover(info, why, info.modified, checkpoint, folder.rpartition("/")[0])
        elif place_with_journal(info.key):
            yield Leftover(info, "delivery under way", info.modified)
        elif journal := _delivery_of(info.key, journals, experiments):
            yield Leftover(info, "delivery under way", max(journal, info.modified))
        elif _in_a_model(info.key, places, experiments):
            yield Leftover(info, "not named", info.modified)


def _subject_of_journal(key: str) -> str:
    """Return the dataset's key or the model's prefix that a journal is about; empty for other keys."""
    place = place_with_journal(key)
    if place is None:
        return ""
    return place.prefix if place.kind == "model" else place.key


def _delivery_of(key: str, journals: dict[str, datetime], experiments: set[str]) -> datetime | None:
    """Return when the journal of the delivery that an object would belong to was written; None where there is none."""
    if key in journals:
        return journals[key]
    for place in _above(key):
        if place in experiments:
            return None
        if f"{place}/" in journals:
            return journals[f"{place}/"]
    return None


def _in_a_model(key: str, places: dict[str, Part], experiments: set[str]) -> bool:
    """Return whether an object lies in a model with a readable manifest, and in no experiment within it."""
    for place in _above(key):
        if place in experiments:
            return False
        if part := places.get(f"{place}/"):
            return part.manifest is not None and part.manifest.kind == part.kind
    return False


def _above(key: str) -> Iterator[str]:
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _checkpoint_of(key: str) -> tuple[str, CheckpointRef | None]:
    """Return the folder of the checkpoint or final model that an object lies in; empty where it lies in none."""
    parts = key.split("/")
    for place, name in enumerate(parts[1:-1], start=1):
        prefix = "/".join(parts[:place])
        ref = CheckpointRef.from_name(prefix, name)
        if ref or name in FINAL_NAMES:
            return f"{prefix}/{name}", ref
    return "", None


def _experiments(objects: Iterable[ObjectInfo]) -> list[str]:
    found: set[str] = set()
    for info in objects:
        folder, _ = _checkpoint_of(info.key)
        if folder:
            found.add(folder.rpartition("/")[0])
        elif info.key in (head_key(above := info.key.rpartition("/")[0]), record_key(above)):
            found.add(above)
    return sorted(found)


def readable_head(store: Store, prefix: str) -> Head | None:
    """Read an experiment's HEAD; None where it is missing or damaged."""
    try:
        found = read_head(store, prefix)
    except IntegrityError:
        return None
    return found[0] if found else None
