"""One listing of a place in the store, sorted into parts that a manifest names and what is left over.

Only names are looked at, and the manifests read; `verifying` reads the bytes. Where things lie:

    <model>/.tuneyard/manifest.json            names files below <model>/
    <folder>/.tuneyard/<file>.manifest.json    names <folder>/<file>
    <experiment>/checkpoint-…/manifest.json    names files beside it

A file that belongs to none of these shapes is somebody else's, and nobody's business here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tuneyard.checkpoints import CheckpointRef
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.store import Kind, Manifest, ObjectInfo, Store, read_manifest, split_key

Why = Literal["not committed", "not named", "delivery under way"]
"""`not committed`: a checkpoint without a manifest. `not named`: beside a manifest that does not name it.
`delivery under way`: the journal of a delivery, or what has arrived while one is there."""

_OWN = ".tuneyard"
_FINALS = ("checkpoint-final", "checkpoint-final-merged")
# Nothing of ours lies at the top of a bucket: a manifest or a journal put there must not speak for all of it.
_MANIFEST = re.compile(
    rf"(?P<place>[^/]+/.+)/(?:(?P<model>{_OWN}/manifest\.json)|{_OWN}/(?P<file>[^/]+)\.manifest\.json"
    r"|(?P<checkpoint>checkpoint-[^/]+)/manifest\.json)"
)
_JOURNAL = re.compile(rf"(?P<place>[^/]+/.+)/{_OWN}/(?:(?P<file>[^/]+)\.)?delivering\.json")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that a manifest makes visible: a model, a file of data, a checkpoint, a final model.

    Attributes:
        key: Where it lies: the model's or checkpoint's key, or the file's.
        kind: What it is.
        manifest_key: Where its manifest lies.
        prefix: What the manifest's paths are relative to; ends at a `/`.
        manifest: The manifest, or None where it can't be read.
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
    """An object that lies where Tuneyard writes, and that nothing names.

    Attributes:
        info: The object.
        why: What it is.
        touched: When a process last wrote it, or the journal of the delivery that it is of.
        checkpoint: The checkpoint it would belong to, where it is of one.
        experiment: That checkpoint's experiment, also for what lies in a final model's place.
    """

    info: ObjectInfo
    why: Why
    touched: datetime
    checkpoint: CheckpointRef | None = None
    experiment: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies under a key.

    Attributes:
        key: The key that was looked at.
        parts: Everything that has a manifest, by key.
        leftovers: Everything that nothing names, by key.
        experiments: The experiments there, by HEAD or run.json or a checkpoint.
        sizes: The size of every object, by key.
    """

    key: str
    parts: tuple[Part, ...]
    leftovers: tuple[Leftover, ...]
    experiments: tuple[str, ...]
    sizes: dict[str, int]


def take_inventory(store: Store, key: str) -> Inventory:
    """List what lies under a key, and read the manifests.

    Args:
        store: The store.
        key: A bucket, an experiment, a model, a folder of any of these, or one file of data.

    Raises:
        NotFoundError: Nothing is there.
        UnavailableError, DeniedError: The store can't be reached, or refuses the credentials.
    """
    key = key.strip("/")
    objects = list(store.list(f"{key}/")) or _one_file(store, key)
    if not objects:
        raise NotFoundError(
            f"There is nothing under {key} in {store.url}.",
            hint="A key is bucket/path, such as default-bucket/experiments/NAME.",
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
    folder, slash, name = key.rpartition("/")
    if not slash or "/" not in folder:
        return []
    split_key(key)
    found: list[ObjectInfo] = []
    for one in (key, f"{folder}/{_OWN}/{name}.manifest.json"):
        try:
            found.append(store.head(one))
        except NotFoundError:
            continue
    return found


def _part(store: Store, key: str) -> Part | None:
    match = _MANIFEST.fullmatch(key)
    if match is None:
        return None
    place = match["place"]
    if match["checkpoint"]:
        where = f"{place}/{match['checkpoint']}"
        final = match["checkpoint"] in _FINALS
        if not final and CheckpointRef.from_name(place, match["checkpoint"]) is None:
            return None
        kind: Kind = "final" if final else "checkpoint"
        prefix = f"{where}/"
    elif match["model"]:
        where, kind, prefix = place, "model", f"{place}/"
    else:
        where, kind, prefix = f"{place}/{match['file']}", "dataset", f"{place}/"
    try:
        manifest = read_manifest(store, key)
    except IntegrityError as error:
        return Part(where, kind, key, prefix, None, error.message)
    except NotFoundError:  # deleted since it was listed
        return None
    return Part(where, kind, key, prefix, manifest)


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
        elif _JOURNAL.fullmatch(info.key):
            yield Leftover(info, "delivery under way", info.modified)
        elif journal := _delivery_of(info.key, journals, experiments):
            yield Leftover(info, "delivery under way", max(journal, info.modified))
        elif _in_a_model(info.key, places, experiments):
            yield Leftover(info, "not named", info.modified)


def _subject_of_journal(key: str) -> str:
    """Give what a delivery's journal is about: a file, or a model with a `/` at its end; empty for other keys."""
    match = _JOURNAL.fullmatch(key)
    if match is None:
        return ""
    return f"{match['place']}/{match['file'] or ''}"


def _delivery_of(key: str, journals: dict[str, datetime], experiments: set[str]) -> datetime | None:
    """Give when the journal of the delivery was written that an object would be of, and in no experiment within it."""
    if key in journals:
        return journals[key]
    for place in _above(key):
        if place in experiments:
            return None
        if f"{place}/" in journals:
            return journals[f"{place}/"]
    return None


def _in_a_model(key: str, places: dict[str, Part], experiments: set[str]) -> bool:
    """Tell whether an object lies in a model whose manifest is readable, and in no experiment within it."""
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
    """Find the checkpoint's folder that an object lies in; empty where it lies in none."""
    parts = key.split("/")
    for place, name in enumerate(parts[1:-1], start=1):
        prefix = "/".join(parts[:place])
        ref = CheckpointRef.from_name(prefix, name)
        if ref or name in _FINALS:
            return f"{prefix}/{name}", ref
    return "", None


def _experiments(objects: Iterable[ObjectInfo]) -> list[str]:
    found: set[str] = set()
    for info in objects:
        folder, _ = _checkpoint_of(info.key)
        if folder:
            found.add(folder.rpartition("/")[0])
        elif info.key.endswith(("/HEAD", "/run.json")):
            found.add(info.key.rpartition("/")[0])
    return sorted(found)
