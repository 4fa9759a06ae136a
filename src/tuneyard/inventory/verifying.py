"""Verifies every byte under a key against its manifest, and HEAD, run.json and metrics beside them.

It reports all damage, not only the first, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from tuneyard.checkpoints import (
    METRICS_FILE,
    CheckpointRef,
    Experiment,
    check_seal,
    head_key,
    parse_rows,
    read_checkpoint,
    read_head,
    read_record,
    record_key,
)
from tuneyard.errors import IntegrityError
from tuneyard.inventory.listing import Inventory, Part, readable_head, take_inventory
from tuneyard.progress import Advance
from tuneyard.store import FileEntry, Manifest, Store, in_parallel, place_of_result, verify

State = Literal["whole", "damaged"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged object.

    Attributes:
        key: The object.
        what: What is wrong with it, in a sentence.
    """

    key: str
    what: str


@dataclass(frozen=True, slots=True)
class PartState:
    """A part and its state.

    Attributes:
        part: The part.
        state: Whether every file of it is undamaged.
    """

    part: Part
    state: State


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of a verification.

    Attributes:
        inventory: The contents of the key.
        parts: Each part and its state.
        damage: All damage.
        resume: What a relaunch would do, for each experiment.
    """

    inventory: Inventory
    parts: tuple[PartState, ...]
    damage: tuple[Damage, ...]
    resume: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "key": self.inventory.key,
            "parts": [
                {
                    "key": one.part.key,
                    "kind": one.part.kind,
                    "state": one.state,
                    "files": len(one.part.manifest.files) if one.part.manifest else None,
                    "bytes": one.part.manifest.size if one.part.manifest else None,
                    "content_sha256": one.part.manifest.content_sha256 if one.part.manifest else None,
                }
                for one in self.parts
            ],
            "damage": [{"key": one.key, "what": one.what} for one in self.damage],
            "leftovers": [
                {"key": one.info.key, "bytes": one.info.size, "why": one.why} for one in self.inventory.leftovers
            ],
            "relaunch": self.resume,
        }


def verify_place(store: Store, key: str, *, advance: Advance | None = None) -> Verified:
    """Verify everything under a key.

    Args:
        store: The store.
        key: As for `take_inventory`.
        advance: Called, from several threads, with the bytes read.

    Raises:
        NotFoundError: Nothing is there.
        UnavailableError, DeniedError: The store can't be reached, or denies access.
    """
    inventory = take_inventory(store, key)
    damage = {part.key: list(_damage_of_part(store, part, advance)) for part in inventory.parts}
    states = tuple(PartState(part, "damaged" if damage[part.key] else "whole") for part in inventory.parts)
    whole = {one.part.key for one in states if one.state == "whole"}
    found = [one for part in inventory.parts for one in damage[part.key]]
    resume: dict[str, str] = {}
    for prefix in inventory.experiments:
        if prefix == inventory.key or prefix.startswith(f"{inventory.key}/"):
            found += _damage_of_experiment(store, prefix, inventory)
            resume[prefix] = _relaunch(store, prefix, inventory, whole)
    return Verified(inventory, states, tuple(dict.fromkeys(found)), resume)


def _damage_of_part(store: Store, part: Part, advance: Advance | None) -> Iterator[Damage]:
    if part.manifest is None:
        yield Damage(part.manifest_key, part.problem)
        return
    if part.manifest.kind != part.kind:
        yield Damage(part.manifest_key, f"'{part.manifest_key}' is a manifest of another kind: '{part.manifest.kind}'.")
    try:
        if part.kind == "checkpoint":
            prefix, _, name = part.key.rpartition("/")
            ref = CheckpointRef.from_name(prefix, name)
            assert ref is not None  # checked by the listing
            read_checkpoint(store, ref, ())
        elif part.kind == "final":
            check_seal(part.manifest.about, where=part.manifest_key)
    except IntegrityError as error:
        yield Damage(part.manifest_key, error.message)

    def one(entry: FileEntry, advance: Advance) -> Damage | None:
        try:
            verify(store, part.prefix, Manifest(kind=part.kind, files=(entry,)), advance=advance)
        except IntegrityError as error:
            return Damage(part.prefix + entry.path, error.message)
        return None

    yield from (found for found in in_parallel(one, part.manifest.files, advance) if found)


def _damage_of_experiment(store: Store, prefix: str, inventory: Inventory) -> Iterator[Damage]:
    keys = {part.key for part in inventory.parts}
    try:
        found = read_head(store, prefix)
    except IntegrityError as error:
        yield Damage(head_key(prefix), error.message)
        found = None
    else:
        if found is None:
            yield Damage(head_key(prefix), f"'{head_key(prefix)}' is missing, but there are checkpoints or a run.json.")
    if found:
        head, _ = found
        for ref in (head.checkpoint, head.best):
            if ref and ref.key not in keys:
                yield Damage(ref.manifest_key, f"'{ref.manifest_key}' is missing, but HEAD names it.")
        final = place_of_result(f"{prefix}/checkpoint-final")
        if head.finished and final.key not in keys:
            where = final.manifest_key
            yield Damage(where, f"'{where}' is missing, but HEAD marks the run as finished.")
    try:
        if read_record(store, prefix) is None:
            yield Damage(record_key(prefix), f"'{record_key(prefix)}' is missing.")
    except IntegrityError as error:
        yield Damage(str(error.details["key"]), error.message)
    yield from _damage_of_metrics(store, prefix, inventory, found[0].checkpoint if found else None)


def _damage_of_metrics(
    store: Store, prefix: str, inventory: Inventory, newest: CheckpointRef | None
) -> Iterator[Damage]:
    """Compare the published rows with those of the newest checkpoint."""
    where = f"{prefix}/{METRICS_FILE}"
    rows = Experiment(store, prefix).read_metrics()
    try:
        for _ in parse_rows(rows):
            pass
    except IntegrityError as error:
        yield Damage(where, error.message)
        return
    manifests = [part.manifest for part in inventory.parts if newest and part.key == newest.key and part.manifest]
    for entry in (entry for manifest in manifests for entry in manifest.files if entry.path == METRICS_FILE):
        if sha256(rows[: entry.size]).hexdigest() != entry.sha256:
            yield Damage(where, f"'{where}' does not begin with the rows of the newest checkpoint.")


def _relaunch(store: Store, prefix: str, inventory: Inventory, whole: set[str]) -> str:
    head = readable_head(store, prefix)
    if f"{prefix}/checkpoint-final" in whole:
        if _wants_merging(store, prefix) and f"{prefix}/checkpoint-final-merged" not in whole:
            return "merges the adapter: checkpoint-final is complete"
        return "nothing to do: checkpoint-final is complete"
    committed = [
        ref
        for part in inventory.parts
        if part.kind == "checkpoint" and part.key.rpartition("/")[0] == prefix
        if (ref := CheckpointRef.from_name(prefix, part.key.rpartition("/")[2]))
    ]
    usable = sorted((ref for ref in committed if not (head and head.supersedes(ref))), reverse=True)
    for ref in usable:
        if ref.key in whole:
            return f"resumes from step {ref.step} ({ref.name})"
    return "stops with exit code 7: no checkpoint is intact" if usable else "trains from the start"


def _wants_merging(store: Store, prefix: str) -> bool:
    try:
        record = read_record(store, prefix)
    except IntegrityError:
        return False
    return bool(record and record.values.get("mergeAdapter"))
