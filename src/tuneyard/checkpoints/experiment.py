"""An experiment: everything under one `checkpointsRemote`, from its first attempt to `checkpoint-final`.

It returns what is there (`committed`, `finished`, `restore`) and lets a process take the training over (`claim`). What
only the owner may do is in `attempt`. The meaning of a checkpoint's files is the trainer's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from tuneyard.checkpoints.attempt import Attempt, FinalName
from tuneyard.checkpoints.fetch import fetch, read_checkpoint
from tuneyard.checkpoints.head import CheckpointRef, Head, Start, change_head, read_head, ref_from_facts
from tuneyard.checkpoints.metrics import METRICS_FILE
from tuneyard.checkpoints.record import (
    AttemptEntry,
    RunRecord,
    check_fingerprint,
    enter_attempt,
    read_record,
    record_key,
)
from tuneyard.checkpoints.survey import survey_experiment
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.progress import Advance
from tuneyard.store import Manifest, Store, place_of_result, read_manifest, split_key

OnDamage = Callable[[str], None]
"""Called with one sentence for each damaged object that is skipped."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A restored checkpoint.

    Attributes:
        ref: The checkpoint.
        path: Its folder, `checkpoint-<step>`, a copy that may be written to.
        manifest: Its manifest; `about` holds what the trainer published with it.
        best: The best checkpoint's folder (it may be `path`); None where there is none that verifies.
    """

    ref: CheckpointRef
    path: Path
    manifest: Manifest
    best: Path | None


class Experiment:
    """One experiment in a store.

    Args:
        store: The store.
        prefix: Its key, the `checkpointsRemote`: `default-bucket/experiments/<run>`.
        required: Files without which training could not resume, as names or shell patterns (`rng_state*.pth`); a
            checkpoint that lacks one is neither published nor restored.
        assumed: The values of fingerprint keys that the experiment's record lacks.

    Raises:
        InvalidValuesError: The prefix is not a valid key.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        required: frozenset[str] = frozenset(),
        assumed: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.prefix = prefix.rstrip("/")
        self.required = required
        self.assumed = assumed or {}
        split_key(self.prefix)

    def head(self) -> Head | None:
        """Read HEAD; None before the first attempt.

        Raises:
            IntegrityError: It is damaged.
        """
        found = read_head(self.store, self.prefix)
        return found[0] if found else None

    def check(self, record: RunRecord, *, partial: bool = False) -> None:
        """Check, without changing anything, that `claim` would accept these settings.

        Args:
            record: The record to claim with.
            partial: Whether its fingerprint is still incomplete.

        Raises:
            ConflictError: The experiment was started with another fingerprint.
        """
        known = self.fingerprint()
        if known is not None:
            check_fingerprint(known, record.fingerprint, where=self.prefix, assumed=self.assumed, partial=partial)

    def fingerprint(self) -> Mapping[str, Any] | None:
        """Read the fingerprint that the experiment was started with; None before the first attempt."""
        try:
            head = self.head()
        except IntegrityError:
            head = None
        known = head or read_record(self.store, self.prefix)
        return known.fingerprint if known else None

    def claim(self, record: RunRecord, *, resume: bool = True, on_damage: OnDamage | None = None) -> Attempt:
        """Take the experiment over: from now on no earlier attempt can commit anything.

        The next attempt's number is taken by compare-and-swap on HEAD before anything else is written; then run.json
        gets its entry. A damaged HEAD is rebuilt from a listing.

        Args:
            record: The settings of this attempt.
            resume: Whether it resumes from what is there. If not, every checkpoint so far is superseded.
            on_damage: Called with a sentence where HEAD is damaged, missing or older than a listed attempt.

        Returns:
            The attempt, which now owns the experiment.

        Raises:
            ConflictError: The experiment was started with another fingerprint; nothing was changed.
        """
        owner = uuid4().hex

        def take(head: Head | None) -> Head:
            if head and head.owner == owner:
                return head
            head = self._head_of_listing(head, record, on_damage)
            check_fingerprint(head.fingerprint, record.fingerprint, where=self.prefix, assumed=self.assumed)
            taken = replace(head, attempt=head.attempt + 1, owner=owner, fingerprint=record.fingerprint)
            if resume:
                return taken
            fresh = Start(attempt=taken.attempt, from_step=0)
            return replace(taken, checkpoint=None, best=None, finished=False, history=(*head.history, fresh))

        head = change_head(self.store, self.prefix, take, over_damage=True)
        entry = AttemptEntry(
            number=head.attempt,
            owner=owner,
            host=socket.gethostname(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            from_step=None if resume else 0,
            values_sha256=record.values_sha256,
        )
        enter_attempt(self.store, self.prefix, record, entry)
        return Attempt(self.store, self.prefix, record=record, entry=entry, required=self.required)

    def committed(self) -> list[CheckpointRef]:
        """List the checkpoints that training may resume from, newest first, by their manifests alone."""
        survey = survey_experiment(self.store, self.prefix)
        lineage = survey.lineage(self.head())
        return [ref for ref in lineage if ref in set(survey.committed)]

    def restore(self, folder: Path, *, on_damage: OnDamage, advance: Advance | None = None) -> Restored | None:
        """Download the newest checkpoint that verifies, and the best one with it.

        Every file is verified by size and SHA-256 before its folder appears. A damaged checkpoint is reported, and the
        one before it is used.

        Args:
            folder: Where to create `checkpoint-<step>` folders; verified files that are already there are used.
            on_damage: Called with a sentence for each checkpoint that is skipped.
            advance: Called, from several threads, with the bytes of each chunk.

        Returns:
            What was restored; None where the experiment has no checkpoint yet.

        Raises:
            IntegrityError: There are checkpoints, but none verifies.
            UnavailableError: The store can't be reached.
            DeniedError: The store denies access.
        """
        folder.mkdir(parents=True, exist_ok=True)
        damage: list[IntegrityError] = []
        try:
            head = self.head()
        except IntegrityError as error:
            head = None
            damage.append(error)
            on_damage(f"{error.message} Using the manifests instead.")
        for ref in survey_experiment(self.store, self.prefix).lineage(head):
            try:
                manifest = read_checkpoint(self.store, ref, self.required)
                path = fetch(self.store, ref.key, manifest, folder / f"checkpoint-{ref.step}", advance=advance)
            except IntegrityError as error:
                damage.append(error)
                on_damage(f"'{ref.name}' is damaged and skipped: {error.message}")
                continue
            best = self._restore_best(ref, manifest, folder, on_damage=on_damage, advance=advance)
            return Restored(ref=ref, path=path, manifest=manifest, best=best)
        if damage:
            raise self._nothing_verifies(damage)
        return None

    def fetch(self, ref: CheckpointRef, folder: Path, *, advance: Advance | None = None) -> Path:
        """Download one checkpoint, verified: the one that another node of the same run has restored.

        Args:
            ref: The checkpoint.
            folder: Where to create its folder `checkpoint-<step>`.
            advance: Called, from several threads, with the bytes of each chunk.

        Returns:
            Its folder.

        Raises:
            IntegrityError: It does not verify.
        """
        folder.mkdir(parents=True, exist_ok=True)
        manifest = read_checkpoint(self.store, ref, self.required)
        return fetch(self.store, ref.key, manifest, folder / f"checkpoint-{ref.step}", advance=advance)

    def finished(self, name: FinalName = "checkpoint-final") -> Manifest | None:
        """Return the manifest of a final model that is complete.

        Files are compared by size, which takes one listing; serving verifies every byte.

        Args:
            name: Which final model.

        Returns:
            The manifest; None where it is missing or damaged, or a file is missing or of another size: then the run has
            to publish it again.
        """
        place = place_of_result(f"{self.prefix}/{name}")
        try:
            manifest = read_manifest(self.store, place.manifest_key)
        except (NotFoundError, IntegrityError):
            return None
        sizes = {info.key: info.size for info in self.store.list(place.prefix)}
        whole = all(sizes.get(place.prefix + entry.path) == entry.size for entry in manifest.files)
        return manifest if whole else None

    def read_metrics(self) -> bytes:
        """Read the published metrics.jsonl; empty where there is none."""
        try:
            return self.store.get(f"{self.prefix}/{METRICS_FILE}").body
        except NotFoundError:
            return b""

    def rows_of(self, restored: Restored, *, on_damage: OnDamage) -> bytes:
        """Return the rows of metrics up to a restored checkpoint, from the checkpoint itself.

        Args:
            restored: The checkpoint.
            on_damage: Called with a sentence where the published rows up to there differ.
        """
        rows = (restored.path / METRICS_FILE).read_bytes()
        if not self.read_metrics().startswith(rows):
            on_damage(f"'{self.prefix}/{METRICS_FILE}' is damaged or missing. Rewriting it.")
        return rows

    def _restore_best(
        self, ref: CheckpointRef, manifest: Manifest, folder: Path, *, on_damage: OnDamage, advance: Advance | None
    ) -> Path | None:
        best = ref_from_facts(self.prefix, manifest.about.get("best"))
        if best is None:
            return None
        path = folder / f"checkpoint-{best.step}"
        if best == ref:
            return path
        try:
            return fetch(self.store, best.key, read_checkpoint(self.store, best, self.required), path, advance=advance)
        except IntegrityError as error:
            on_damage(f"The best checkpoint, '{best.name}', is damaged and skipped: {error.message}")
            return None

    def _head_of_listing(self, head: Head | None, record: RunRecord, on_damage: OnDamage | None) -> Head:
        """Return HEAD, rebuilt from a listing where it is damaged, missing or older than a listed attempt.

        An older one, restored from a backup, would give the next attempt a number that is already taken.
        """
        survey = survey_experiment(self.store, self.prefix)
        try:
            known = read_record(self.store, self.prefix)
        except IntegrityError as error:
            if head is None:
                raise
            known = None
            if on_damage:
                on_damage(f"{error.message} Rewriting it.")
        else:
            if on_damage and head and known is None:
                on_damage(f"'{record_key(self.prefix)}' is missing. Rewriting it.")
        numbers = {ref.attempt for ref in survey.keys} | {entry.number for entry in (known.attempts if known else ())}
        highest = max(numbers, default=0)
        if head and highest <= head.attempt:
            return head
        if on_damage and numbers:
            how = f"older than attempt {highest}" if head else "damaged or missing"
            on_damage(f"'{self.prefix}/HEAD' is {how}. Rebuilding it from a listing.")
        newest = max(survey.committed, default=None)
        if head:
            return replace(head, attempt=highest, checkpoint=newest)
        return Head(
            attempt=highest,
            owner="",
            fingerprint=known.fingerprint if known else record.fingerprint,
            checkpoint=newest,
            finished=self.finished() is not None,
        )

    def _nothing_verifies(self, damage: list[IntegrityError]) -> IntegrityError:
        keys = [str(error.details["key"]) for error in damage]
        others = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        return IntegrityError(
            f"No checkpoint of '{self.prefix}' in '{self.store.url}' can be used: "
            f"{damage[0].message.rstrip('.')}{others}.",
            hint=f"Restore '{keys[0]}' from a backup of the bucket, or train under another checkpointsRemote.",
            key=keys[0],
            damaged=keys,
        )
