"""One attempt at an experiment: everything that is written there while the attempt owns it.

The order is always: data, a check that all of it arrived, the manifest, then HEAD. A process that dies in between
leaves objects that no reader trusts. An attempt that was taken over detects it at HEAD at the latest, having written
nothing but objects under its own number. (`checkpoint-final` has no number in its key: the owner is checked before and
after its files are written, and the manifest's hashes reveal what a suspended machine may still write in between.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from tuneyard.checkpoints.events import EVENTS_FOLDER
from tuneyard.checkpoints.fetch import lacking, read_checkpoint
from tuneyard.checkpoints.head import (
    CheckpointRef,
    Head,
    Start,
    change_head,
    read_head,
    ref_from_facts,
    while_contended,
)
from tuneyard.checkpoints.metrics import METRICS_FILE
from tuneyard.checkpoints.record import AttemptEntry, RunRecord, enter_attempt
from tuneyard.checkpoints.retention import RetentionPolicy, to_prune
from tuneyard.checkpoints.seal import SEAL, seal_of
from tuneyard.checkpoints.survey import Survey, survey_experiment
from tuneyard.errors import (
    ConflictError,
    IntegrityError,
    LostOwnershipError,
    NotFoundError,
)
from tuneyard.progress import Advance
from tuneyard.store import (
    MANIFEST,
    FileEntry,
    Manifest,
    Store,
    hash_file,
    place_of_result,
    read_manifest,
    upload_tree,
    write_manifest,
)
from tuneyard.whereabouts import command

FinalName = Literal["checkpoint-final", "checkpoint-final-merged"]
"""The final models of an experiment, which can be served."""

FINAL_NAMES: tuple[FinalName, ...] = get_args(FinalName)


class Attempt:
    """An attempt that owns an experiment; `Experiment.claim` creates it.

    Not thread-safe, except for `check_owner`.

    Attributes:
        number: Its number, 1 for the first of the experiment.
        prefix: The experiment's key.
    """

    def __init__(
        self, store: Store, prefix: str, *, record: RunRecord, entry: AttemptEntry, required: frozenset[str]
    ) -> None:
        self.number = entry.number
        self.prefix = prefix
        self._store = store
        self._record = record
        self._entry = entry
        self._required = required

    def check_owner(self) -> Head:
        """Check that no other attempt has taken the experiment over.

        Returns:
            The current HEAD.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
        """
        found = read_head(self._store, self.prefix)
        return self._owned(found[0] if found else None)

    def begin(self, ref: CheckpointRef | None) -> None:
        """Record the checkpoint that this attempt resumes from; later steps of earlier attempts are superseded.

        Call it once, after `Experiment.restore` and before the first step.

        Args:
            ref: The restored checkpoint, None for a fresh start.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
        """
        start = Start(attempt=self.number, from_step=ref.step if ref else 0)

        def begun(head: Head) -> Head:
            history = (*(known for known in head.history if known.attempt != self.number), start)
            best = head.best if ref and head.best and not replace(head, history=history).supersedes(head.best) else None
            return replace(head, checkpoint=ref, best=best, history=history)

        self._change(begun)
        self._entry = replace(self._entry, from_step=start.from_step)
        enter_attempt(self._store, self.prefix, self._record, self._entry)

    def publish(
        self, folder: Path, step: int, about: Mapping[str, Any], *, advance: Advance | None = None
    ) -> CheckpointRef:
        """Commit a folder as the checkpoint of a step. May be repeated after a failure.

        Args:
            folder: The files; they must not change until this returns.
            step: The optimizer steps done.
            about: Facts for the manifest, plain JSON values. `best` is the step of the best checkpoint so far (this
                one or an earlier one), or None.
            advance: Called, from several threads, with the bytes sent.

        Returns:
            The committed checkpoint, which HEAD now names.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
            IntegrityError: The folder lacks a required file, or the store lacks bytes that were sent.
            ConflictError: This attempt has committed other files for this step.
            NotFoundError: The best checkpoint that `about` names is not committed.
        """
        ref = CheckpointRef.at(self.prefix, step, self.number)
        _refuse_own_manifest(folder)
        self._check_required(folder)
        head = self.check_owner()
        best = self._best(ref, about.get("best"), head)
        try:
            self._check_same(read_manifest(self._store, ref.manifest_key), folder, ref.manifest_key)
        except NotFoundError:
            facts = {**about, "step": step, "attempt": self.number, "best": best.to_facts() if best else None}
            files = upload_tree(self._store, folder, f"{ref.key}/", advance=advance)
            self._commit("checkpoint", ref.key, files, facts)

        def committed(head: Head) -> Head:
            newer = head.checkpoint and head.checkpoint.attempt == self.number and head.checkpoint.step > step
            return head if newer else replace(head, checkpoint=ref, best=best)

        self._change(committed)
        return ref

    def publish_final(
        self, folder: Path, name: FinalName, about: Mapping[str, Any], *, advance: Advance | None = None
    ) -> Manifest:
        """Publish a final model; `checkpoint-final` also marks the experiment as finished.

        An earlier attempt's is replaced: its manifest is deleted first, so that a mix is never visible.

        Args:
            folder: The files.
            name: Which final model; publish `checkpoint-final` before anything that is derived from it.
            about: Facts for the manifest, plain JSON values.
            advance: Called, from several threads, with the bytes sent.

        Returns:
            Its manifest.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
            IntegrityError: The store lacks bytes that were sent.
        """
        _refuse_own_manifest(folder)
        key = f"{self.prefix}/{name}"
        # Listed before the owner is checked, so that nothing of a successor's is deleted.
        manifest_key = place_of_result(key).manifest_key
        earlier = {info.key for info in self._store.list(f"{key}/")} - {manifest_key}
        self.check_owner()
        self._store.delete([manifest_key])
        files = upload_tree(self._store, folder, f"{key}/", advance=advance)
        self.check_owner()
        self._store.delete(sorted(earlier - {f"{key}/{entry.path}" for entry in files}))
        manifest = self._commit("final", key, files, {**about, "attempt": self.number})
        self._change(lambda head: replace(head, finished=head.finished or name == "checkpoint-final"))
        return manifest

    def write_metrics(self, rows: bytes) -> None:
        """Publish the whole metrics.jsonl, replacing the previous one.

        A conditional write: an attempt that was taken over can't undo its successor's.

        Args:
            rows: The whole file.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
        """
        while_contended(20)(self._write_metrics_once, rows)

    def write_events(self, name: str, body: bytes) -> None:
        """Publish a whole event file of this attempt, replacing its previous state.

        Args:
            name: The file's name, which no other attempt uses.
            body: The whole file so far.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
        """
        self.check_owner()
        self._store.put(f"{self.prefix}/{EVENTS_FOLDER}/{name}", body)

    def prune(self, policy: RetentionPolicy) -> list[CheckpointRef]:
        """Delete what is no longer needed: old checkpoints, and objects that ended attempts left without a manifest.

        A manifest is deleted before its files. Never deleted: the newest checkpoint, a best one, anything of a later
        attempt and, with `keep=None`, any committed one.

        Args:
            policy: How many checkpoints to keep.

        Returns:
            The deleted checkpoints, oldest first.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
        """
        head = self.check_owner()
        survey = survey_experiment(self._store, self.prefix)
        lineage = survey.lineage(head)
        to_delete: set[CheckpointRef] = set()
        if policy.keep is not None:
            protected = self._protected(policy, head, lineage)
            superseded = {ref for ref in survey.committed if ref not in lineage and ref.attempt < self.number}
            to_delete = {
                *to_prune(policy, lineage, protected=protected, attempt=self.number),
                *(superseded - protected),
            }
        leftovers = {ref for ref in survey.keys if ref not in survey.committed and ref.attempt < self.number}
        for ref in sorted(to_delete | leftovers):
            self._delete(survey, ref)
        return sorted(to_delete)

    def _protected(self, policy: RetentionPolicy, head: Head, lineage: tuple[CheckpointRef, ...]) -> set[CheckpointRef]:
        """Return what HEAD names, and the best checkpoint of each one that is kept: a resume from that needs it too."""
        protected = {ref for ref in (head.checkpoint, head.best) if ref}
        for ref in lineage[: max(1, policy.keep or 1)]:
            try:
                facts = read_checkpoint(self._store, ref, frozenset()).about
            except IntegrityError:
                continue
            best = ref_from_facts(self.prefix, facts.get("best"))
            protected |= {best} if best else set()
        return protected

    def _delete(self, survey: Survey, ref: CheckpointRef) -> None:
        self._store.delete([ref.manifest_key])
        self._store.delete([key for key in survey.keys.get(ref, ()) if key != ref.manifest_key])

    def _best(self, ref: CheckpointRef, step: Any, head: Head) -> CheckpointRef | None:
        if step is None:
            return None
        if step == ref.step:
            return ref
        survey = survey_experiment(self._store, self.prefix)
        found = max((known for known in survey.lineage(head) if known.step == step), default=None)
        if found is None:
            raise NotFoundError(
                f"'{ref.name}' names step {step} as the best checkpoint of '{self.prefix}', but that is not committed.",
                hint="Publish the best checkpoint before a later one names it.",
                key=self.prefix,
            )
        return found

    def _check_required(self, folder: Path) -> None:
        paths = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        missing = lacking(self._required, paths)
        if missing or not paths:
            raise IntegrityError(
                f"The checkpoint in '{folder}' lacks {', '.join(missing) or 'every file'}, "
                "so training could not resume from it.",
                hint="Nothing was published. Check what deletes files in the working folder.",
                key=str(folder),
                missing=missing,
            )

    def _check_same(self, manifest: Manifest, folder: Path, where: str) -> None:
        local = tuple(
            FileEntry(path.relative_to(folder).as_posix(), *_size_and_hash(path))
            for path in folder.rglob("*")
            if path.is_file()
        )
        if Manifest(kind=manifest.kind, files=local).content_sha256 != manifest.content_sha256:
            raise ConflictError(
                f"'{where}' is committed, but '{folder}' holds different files for the same step.",
                hint="An attempt saves a step once; what is committed is never overwritten.",
                key=where,
            )

    def _commit(
        self, kind: Literal["checkpoint", "final"], key: str, files: list[FileEntry], facts: Mapping[str, Any]
    ) -> Manifest:
        sizes = {info.key: info.size for info in self._store.list(f"{key}/")}
        for entry in files:
            if sizes.get(f"{key}/{entry.path}") != entry.size:
                raise IntegrityError(
                    f"'{key}/{entry.path}' is incomplete: {entry.size} bytes were sent, "
                    f"the store holds {sizes.get(f'{key}/{entry.path}', 'none')}.",
                    hint="Nothing was committed. Another process may be deleting objects there.",
                    key=f"{key}/{entry.path}",
                )
        self.check_owner()
        manifest = Manifest(kind=kind, files=tuple(files), about={**facts, SEAL: seal_of(facts)})
        write_manifest(self._store, place_of_result(key).manifest_key, manifest)
        return manifest

    def _write_metrics_once(self, rows: bytes) -> None:
        key = f"{self.prefix}/{METRICS_FILE}"
        try:
            etag = self._store.head(key).etag
        except NotFoundError:
            etag = None
        # The owner is checked after the version was read: if that is still current when the bytes arrive, no later
        # attempt has written any.
        self.check_owner()
        if etag is None:
            self._store.create(key, rows)
        else:
            self._store.replace(key, rows, etag=etag)

    def _change(self, change: Callable[[Head], Head]) -> Head:
        return change_head(self._store, self.prefix, lambda head: change(self._owned(head)))

    def _owned(self, head: Head | None) -> Head:
        if head is None or head.owner != self._entry.owner:
            owner = f"its owner is attempt {head.attempt}" if head else "its HEAD was deleted"
            raise LostOwnershipError(
                f"Attempt {self.number} no longer owns '{self.prefix}': {owner}.",
                hint=f"This attempt writes nothing more. See the current one: {command('tuneyard runs')}",
                attempt=self.number,
                owner=head.attempt if head else None,
            )
        return head


def _refuse_own_manifest(folder: Path) -> None:
    if (folder / MANIFEST).exists():
        raise ConflictError(
            f"The folder '{folder}' has a file '{MANIFEST}', which its own manifest would replace.",
            hint="Rename that file.",
            path=str(folder),
        )


def _size_and_hash(path: Path) -> tuple[int, str]:
    digest = hash_file(path)
    return digest.size, digest.sha256
