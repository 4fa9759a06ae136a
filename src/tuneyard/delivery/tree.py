"""One delivery: the files of a source to a place in the store, each verified as it is copied, the manifest last.

A model is one delivery, each dataset another. This order keeps readers safe at every moment: take the journal, delete
an old manifest, write files and delete stale ones, create the manifest, delete the journal. A process that is killed
in between leaves no manifest, and a journal from which the next one resumes.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.delivery.checks import Held, checked, same_content
from tuneyard.delivery.journal import Journal, OpenJournal, read_journal
from tuneyard.delivery.report import Delivered, Status
from tuneyard.delivery.selection import Selection, abbreviated
from tuneyard.delivery.sources import Source, SourceFile, is_tool_path
from tuneyard.errors import ConflictError, IntegrityError, InvalidValuesError, NotFoundError, UnavailableError
from tuneyard.progress import Advance, progress_bar
from tuneyard.store import FileEntry, Manifest, Place, Store, check_relative, in_parallel, read_manifest, write_manifest
from tuneyard.whereabouts import more_room

logger = logging.getLogger(__name__)

_FEW_FILES = 4


@dataclass(frozen=True, slots=True)
class Target:
    """A place to deliver to.

    Attributes:
        store: The store.
        place: Where the model or dataset lies in it.
        setting: The key of the values that names the place.
    """

    store: Store
    place: Place
    setting: str

    def owned(self, keys: Iterable[str]) -> frozenset[str]:
        """Select the keys that belong to this delivery.

        Others may write manifests and journals in the bucket: whatever these name, nothing outside the place that the
        values name is deleted.

        Args:
            keys: Keys from a manifest or a journal.
        """
        return frozenset(
            key
            for key in keys
            if key.startswith(self.place.prefix) and self._is_own(key.removeprefix(self.place.prefix))
        )

    def _is_own(self, path: str) -> bool:
        if self.place.kind == "dataset":  # its folder is shared with other datasets
            return self.place.prefix + path == self.place.key
        try:
            return not is_tool_path(check_relative(path))
        except InvalidValuesError:
            return False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a delivery does: its `status` at the end, the files that need no transfer, the objects to delete."""

    status: Status
    done: dict[str, Held]
    stale: frozenset[str]
    journal: Journal | None


def _check_nothing() -> None:
    """Accept any files: datasets are checked before they are trained on."""


def deliver_tree(
    target: Target,
    source: Source,
    selection: Selection,
    *,
    about: Mapping[str, Any],
    allow_overwrite: bool,
    stop: threading.Event,
    check: Callable[[], None] = _check_nothing,
) -> Delivered:
    """Deliver the selected files of a source.

    Args:
        target: The place to deliver to.
        source: The source.
        selection: The files to deliver.
        about: Facts for the manifest besides the source's own.
        allow_overwrite: Replace content that differs.
        stop: Cancels the transfers when set; set when one of them fails.
        check: Called with all files in the store, before the manifest is written; raises where they must not be used.

    Returns:
        What was delivered.

    Raises:
        ConflictError: Other content is there and may not be replaced, or another process delivers to the same place.
        IntegrityError: A file differs from what its source declares.
        NotFoundError, DeniedError, UnavailableError: The source or the store is missing, denied or unreachable.
    """
    plan = _plan(target, source, selection, allow_overwrite=allow_overwrite)
    if isinstance(plan, Manifest):
        _update_facts(target, plan, _facts(source, selection, _held(plan), about))
        return _delivered(target, source, selection, plan, status="unchanged")
    files = selection.files
    rest = [file for file in files if file.path not in plan.done]
    _check_room(target, source, rest)
    stale = target.owned(plan.stale)
    journal = OpenJournal(
        target.store, target.place.journal_key, plan.journal, done=plan.done, stale=stale, source=source.name
    )
    target.store.delete([target.place.manifest_key])
    if plan.done:
        logger.info(
            "%d of %d files of '%s' are already at '%s'.", len(plan.done), len(files), source.name, target.place.key
        )
    _transfer(target, source, rest, journal, stop)
    manifest = Manifest(
        kind=target.place.kind,
        files=tuple(FileEntry(path, held.size, held.sha256) for path, held in journal.done.items()),
        about=_facts(source, selection, journal.done, about),
    )
    _check_present(target, manifest)
    check()
    journal.confirm()
    target.store.delete(sorted(stale))
    write_manifest(target.store, target.place.manifest_key, manifest)
    journal.remove()
    return _delivered(target, source, selection, manifest, status=plan.status, rest=rest)


def _plan(target: Target, source: Source, selection: Selection, *, allow_overwrite: bool) -> _Plan | Manifest:
    """Compare the selection with the store; the manifest that is there where nothing is to be done."""
    journal = read_journal(target.store, target.place.journal_key)
    sizes = object_sizes(target, [file.path for file in selection.files])
    chosen = {file.path: file for file in selection.files}
    manifest = _existing_manifest(target, allow_overwrite=allow_overwrite)
    if manifest is not None:
        held = _held(manifest)
        same = {path for path, file in chosen.items() if path in held and same_content(source, file, held[path])}
        stale = frozenset(target.place.prefix + path for path in held if path not in chosen)
        if stale or len(same) < len(chosen):
            if not allow_overwrite:
                raise _differs(target, source, chosen, held, same)
        elif all(sizes.get(path) == held[path].size for path in held):
            if journal is not None:  # killed between the manifest and the journal's removal
                target.store.delete([target.place.journal_key])
            return manifest
        else:
            logger.info("Files of '%s' are damaged or missing; delivering them.", target.place.key)
        done = {path: held[path] for path in same if sizes.get(path) == held[path].size}
        return _Plan("replaced" if stale or len(same) < len(chosen) else "delivered", done, stale, journal)
    if journal is not None:
        done = {
            path: held
            for path, held in journal.done.items()
            if path in chosen and sizes.get(path) == held.size and same_content(source, chosen[path], held)
        }
        gone = frozenset(target.place.prefix + path for path in journal.done if path not in chosen)
        return _Plan(
            "delivered", done, (journal.stale - {target.place.prefix + path for path in chosen}) | gone, journal
        )
    done = _adopt(target, source, chosen, sizes, allow_overwrite=allow_overwrite)
    return _Plan("replaced" if sizes.keys() - done.keys() else "delivered", done, frozenset(), None)


def _facts(source: Source, selection: Selection, done: Mapping[str, Held], about: Mapping[str, Any]) -> dict[str, Any]:
    versions = {file.path: file.version or done[file.path].version for file in selection.files}
    return {
        "source": source.about,
        "left_out": list(selection.left_out),
        "versions": {path: version for path, version in versions.items() if version},
        **about,
    }


def _update_facts(target: Target, manifest: Manifest, facts: dict[str, Any]) -> None:
    """Record the newest commit or script that gave the same content; another kind of source changes nothing."""
    before: Any = manifest.about.get("source")
    kind = cast("dict[str, Any]", before).get("kind") if isinstance(before, dict) else None
    if kind == facts["source"]["kind"] and dict(manifest.about) != facts:
        write_manifest(
            target.store, target.place.manifest_key, Manifest(manifest.kind, manifest.files, facts), replace=True
        )


def _existing_manifest(target: Target, *, allow_overwrite: bool) -> Manifest | None:
    try:
        return read_manifest(target.store, target.place.manifest_key)
    except NotFoundError:
        return None
    except IntegrityError:
        if not allow_overwrite:
            raise
        return None


def _adopt(
    target: Target, source: Source, chosen: dict[str, SourceFile], sizes: dict[str, int], *, allow_overwrite: bool
) -> dict[str, Held]:
    """Adopt equal objects that are there without a manifest; never overwrite others."""
    if not sizes:
        return {}
    logger.info(
        "%d objects are at '%s' without a manifest; comparing them with '%s'.",
        len(sizes),
        target.place.key,
        source.name,
    )
    done: dict[str, Held] = {}
    for path, size in sizes.items():
        if size != chosen[path].size:
            continue
        held = Held(
            size=size, sha256=_stored_sha256(target.store, target.place.prefix + path), version=chosen[path].version
        )
        # compared without the version, which is the source's and proves nothing about these bytes
        if same_content(source, chosen[path], Held(held.size, held.sha256)):
            done[path] = held
    others = sorted(sizes.keys() - done.keys())
    if others and not allow_overwrite:
        raise ConflictError(
            f"Objects at '{target.place.key}' have no manifest and differ from '{source.name}': {abbreviated(others)}.",
            hint=_HINT.format(setting=target.setting),
            key=target.place.key,
            differing=others,
        )
    return done


def _check_room(target: Target, source: Source, files: list[SourceFile]) -> None:
    """Check that the disk of a folder can hold the files, before any is fetched."""
    place = target.store.local_path(target.place.manifest_key)
    if place is None:
        return
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, sum(file.size for file in files)
    if needed > free:
        raise UnavailableError(
            f"'{target.store.url}' has no room for '{source.name}' at '{target.place.key}': "
            f"{needed} bytes are needed, {free} are free.",
            hint=f"{more_room(place)}; or deliver to another store.",
            key=target.place.key,
            needed=needed,
            free=free,
        )


def _transfer(
    target: Target, source: Source, files: list[SourceFile], journal: OpenJournal, stop: threading.Event
) -> None:
    if not files:
        return

    def one(file: SourceFile, advance: Advance) -> None:
        digest = target.store.write(target.place.prefix + file.path, checked(source, file, advance=advance))
        journal.add(file.path, Held(size=digest.size, sha256=digest.sha256, version=file.version))

    total = sum(file.size for file in files)
    largest_first = sorted(
        files, key=lambda file: -file.size
    )  # so that no large file is left to transfer alone at the end
    with progress_bar(f"Delivering {source.name}", total, "bytes") as advance:
        in_parallel(one, largest_first, advance, stop=stop)


def _check_present(target: Target, manifest: Manifest) -> None:
    """Check that the store holds every file, before a manifest names them."""
    sizes = object_sizes(target, [entry.path for entry in manifest.files])
    for entry in manifest.files:
        if sizes.get(entry.path) != entry.size:
            raise IntegrityError(
                f"The store holds {sizes.get(entry.path, 'no')} bytes at '{target.place.prefix}{entry.path}', "
                f"but {entry.size} were written.",
                hint="Deliver again. Another process may have written to the same place.",
                key=target.place.prefix + entry.path,
            )


def object_sizes(target: Target, paths: list[str]) -> dict[str, int]:
    """Return the sizes in bytes of those files that the store holds.

    Args:
        target: The place of the files.
        paths: Their paths, relative to its prefix.
    """
    if len(paths) > _FEW_FILES:
        wanted = frozenset(paths)
        listed = (
            (info.key.removeprefix(target.place.prefix), info.size) for info in target.store.list(target.place.prefix)
        )
        return {path: size for path, size in listed if path in wanted}
    sizes: dict[str, int] = {}
    for path in paths:
        try:
            sizes[path] = target.store.head(target.place.prefix + path).size
        except NotFoundError:
            continue
    return sizes


_HINT = "Replace it with --set allowOverwrite=true, or choose another {setting}."


def _differs(
    target: Target, source: Source, chosen: dict[str, SourceFile], held: dict[str, Held], same: set[str]
) -> ConflictError:
    groups = {
        "differ": sorted(path for path in chosen if path in held and path not in same),
        "are new": sorted(path for path in chosen if path not in held),
        "are missing from the source": sorted(path for path in held if path not in chosen),
    }
    words = "; ".join(f"{len(paths)} {what} ({abbreviated(paths)})" for what, paths in groups.items() if paths)
    return ConflictError(
        f"The content of '{target.place.key}' in '{target.store.url}' differs from '{source.name}': {words}.",
        hint=_HINT.format(setting=target.setting),
        key=target.place.key,
        differing=groups["differ"],
        new=groups["are new"],
        gone=groups["are missing from the source"],
    )


def _held(manifest: Manifest) -> dict[str, Held]:
    versions: Any = manifest.about.get("versions")
    known: dict[str, str] = versions if isinstance(versions, dict) else {}
    return {entry.path: Held(entry.size, entry.sha256, str(known.get(entry.path, ""))) for entry in manifest.files}


def _stored_sha256(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    for chunk in store.read(key):
        digest.update(chunk)
    return digest.hexdigest()


def _delivered(
    target: Target,
    source: Source,
    selection: Selection,
    manifest: Manifest,
    *,
    status: Status,
    rest: list[SourceFile] | None = None,
) -> Delivered:
    moved = rest or []
    return Delivered(
        key=target.place.key,
        status=status,
        source=source.name,
        content_sha256=manifest.content_sha256,
        files=len(manifest.files),
        size=manifest.size,
        transferred_files=len(moved),
        transferred_bytes=sum(file.size for file in moved),
        left_out=selection.left_out,
    )
