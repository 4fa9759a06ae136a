"""An experiment: everything under one `checkpointsRemote`, from its first attempt to `checkpoint-final`.

It answers what is there (`committed`, `finished`, `restore`) and lets a process take the training over (`claim`). What
only the owner may do is in `attempt`. Nothing here knows what a checkpoint's files mean.
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
from tuneyard.store import Manifest, Store, read_manifest, split_key

OnDamage = Callable[[str], None]
"""Called with one sentence for each damaged thing that is passed over."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A checkpoint that was brought back.

    Attributes:
        ref: Which one.
        path: Its folder, `checkpoint-<step>`, a copy that may be written into.
        manifest: Its manifest; `about` has what the trainer published with it.
        best: The best checkpoint's folder (it may be `path`), or None where there is none that verifies.
    """

    ref: CheckpointRef
    path: Path
    manifest: Manifest
    best: Path | None


class Experiment:
    """One experiment in a store.

    Args:
        store: Where it lies.
        prefix: Its key, as `checkpointsRemote` has it: `default-bucket/experiments/<run>`.
        required: Files without which training could not go on, as names or shell patterns (`rng_state*.pth`); a
            checkpoint that lacks one is neither published nor restored.
        assumed: What a key of the fingerprint stands for that the experiment's record lacks.

    Raises:
        InvalidValuesError: The prefix is not a key.
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
        """Read HEAD; None where nobody has begun yet.

        Raises:
            IntegrityError: It is damaged.
        """
        found = read_head(self.store, self.prefix)
        return found[0] if found else None

    def check(self, record: RunRecord, *, partial: bool = False) -> None:
        """Check, without changing anything, that `claim` would not find other settings.

        Args:
            record: What would be claimed with.
            partial: Whether its fingerprint is not known whole yet.

        Raises:
            ConflictError: The experiment was begun with another fingerprint.
        """
        known = self.fingerprint()
        if known is not None:
            check_fingerprint(known, record.fingerprint, where=self.prefix, assumed=self.assumed, partial=partial)

    def fingerprint(self) -> Mapping[str, Any] | None:
        """Read what the experiment was begun with; None where nobody has begun yet."""
        try:
            head = self.head()
        except IntegrityError:
            head = None
        known = head or read_record(self.store, self.prefix)
        return known.fingerprint if known else None

    def claim(self, record: RunRecord, *, resume: bool = True, on_damage: OnDamage | None = None) -> Attempt:
        """Take the experiment over: from here on no earlier attempt can commit anything.

        The next attempt's number is taken by compare-and-swap on HEAD before anything else is written, then run.json
        gets its entry. A damaged HEAD is made again from what lies there.

        Args:
            record: What this attempt runs with.
            resume: Whether it goes on from what is there. If not, every checkpoint so far counts as superseded.
            on_damage: Called with a sentence where HEAD is damaged, gone or older than what lies there.

        Returns:
            The attempt that owns the experiment now.

        Raises:
            ConflictError: The experiment was begun with another fingerprint; nothing was changed.
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
            anew = Start(attempt=taken.attempt, from_step=0)
            return replace(taken, checkpoint=None, best=None, finished=False, history=(*head.history, anew))

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
        """List the checkpoints that training may go on from, newest first, by their manifests alone."""
        survey = survey_experiment(self.store, self.prefix)
        lineage = survey.lineage(self.head())
        return [ref for ref in lineage if ref in set(survey.committed)]

    def restore(self, folder: Path, *, on_damage: OnDamage, advance: Advance | None = None) -> Restored | None:
        """Bring back the newest checkpoint that verifies, and the best one with it.

        Every file is verified by size and SHA-256 before its folder appears. What is damaged is told and the checkpoint
        before it is taken.

        Args:
            folder: Where `checkpoint-<step>` folders go; verified files that are there already are used.
            on_damage: Called with a sentence for each checkpoint that is passed over.
            advance: Called, from several threads, with bytes as they arrive.

        Returns:
            What was restored, or None where the experiment has no checkpoint yet.

        Raises:
            IntegrityError: There are checkpoints and none verifies.
            UnavailableError: The store can't be reached.
            DeniedError: The store refuses the credentials.
        """
        folder.mkdir(parents=True, exist_ok=True)
        damage: list[IntegrityError] = []
        try:
            head = self.head()
        except IntegrityError as error:
            head = None
            damage.append(error)
            on_damage(f"{error.message} Going by the manifests instead.")
        for ref in survey_experiment(self.store, self.prefix).lineage(head):
            try:
                manifest = read_checkpoint(self.store, ref, self.required)
                path = fetch(self.store, ref.key, manifest, folder / f"checkpoint-{ref.step}", advance=advance)
            except IntegrityError as error:
                damage.append(error)
                on_damage(f"{ref.name} is damaged and passed over: {error.message}")
                continue
            best = self._restore_best(ref, manifest, folder, on_damage=on_damage, advance=advance)
            return Restored(ref=ref, path=path, manifest=manifest, best=best)
        if damage:
            raise self._nothing_verifies(damage)
        return None

    def fetch(self, ref: CheckpointRef, folder: Path, *, advance: Advance | None = None) -> Path:
        """Bring one checkpoint back, verified: the one that another machine of the same run has restored.

        Args:
            ref: Which one.
            folder: Where its folder `checkpoint-<step>` goes.
            advance: Called, from several threads, with bytes as they arrive.

        Returns:
            Its folder.

        Raises:
            IntegrityError: It does not verify.
        """
        folder.mkdir(parents=True, exist_ok=True)
        manifest = read_checkpoint(self.store, ref, self.required)
        return fetch(self.store, ref.key, manifest, folder / f"checkpoint-{ref.step}", advance=advance)

    def finished(self, name: FinalName = "checkpoint-final") -> Manifest | None:
        """Give the manifest of a final model, where it is there with all of its files.

        Files are compared by size here, which costs one listing; serving verifies every byte.

        Args:
            name: Which one.

        Returns:
            The manifest, or None where there is none, it is damaged, or a file is missing or of another size: then
            the training has to publish it again.
        """
        prefix = f"{self.prefix}/{name}"
        try:
            manifest = read_manifest(self.store, f"{prefix}/manifest.json")
        except (NotFoundError, IntegrityError):
            return None
        sizes = {info.key: info.size for info in self.store.list(f"{prefix}/")}
        whole = all(sizes.get(f"{prefix}/{entry.path}") == entry.size for entry in manifest.files)
        return manifest if whole else None

    def read_metrics(self) -> bytes:
        """Read the published metrics.jsonl; empty where there is none."""
        try:
            return self.store.get(f"{self.prefix}/{METRICS_FILE}").body
        except NotFoundError:
            return b""

    def rows_of(self, restored: Restored, *, on_damage: OnDamage) -> bytes:
        """Give the rows of metrics up to a restored checkpoint, as the checkpoint carries them.

        Args:
            restored: The checkpoint.
            on_damage: Called with a sentence where the published rows up to there are not these.
        """
        rows = (restored.path / METRICS_FILE).read_bytes()
        if not self.read_metrics().startswith(rows):
            on_damage(f"{self.prefix}/{METRICS_FILE} is damaged, or is not there. Writing it anew.")
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
            on_damage(f"The best checkpoint, {best.name}, is damaged and forgotten: {error.message}")
            return None

    def _head_of_listing(self, head: Head | None, record: RunRecord, on_damage: OnDamage | None) -> Head:
        """Give HEAD as it is, or the one that should be there where it is damaged, gone or older than what lies there.

        An older one, put back from a backup, would give the next attempt a number that another has had.
        """
        survey = survey_experiment(self.store, self.prefix)
        try:
            known = read_record(self.store, self.prefix)
        except IntegrityError as error:
            if head is None:
                raise
            known = None
            if on_damage:
                on_damage(f"{error.message} Writing it anew.")
        else:
            if on_damage and head and known is None:
                on_damage(f"{record_key(self.prefix)} is not there. Writing it anew.")
        numbers = {ref.attempt for ref in survey.keys} | {entry.number for entry in (known.attempts if known else ())}
        highest = max(numbers, default=0)
        if head and highest <= head.attempt:
            return head
        if on_damage and numbers:
            how = f"older than attempt {highest}" if head else "damaged, or is not there"
            on_damage(f"{self.prefix}/HEAD is {how}. Making it again from what lies there.")
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
            f"No checkpoint of {self.prefix} in {self.store.url} can be used: {damage[0].message.rstrip('.')}{others}.",
            hint=f"Bring {keys[0]} back from a backup of the bucket, or train anew under another checkpointsRemote.",
            key=keys[0],
            damaged=keys,
        )
