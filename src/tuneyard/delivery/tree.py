"""One delivery: the files of a source to a place in the store, each verified on the way, the manifest last.

A model is one such delivery, each file of data another. The order that makes a reader safe at every moment: the journal
is taken, an old manifest is deleted, files are written and stale ones removed, the manifest is created, the journal
removed. Whoever is killed in between leaves no manifest, and a journal from which the next one goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.delivery.checks import Held, checked, same_content
from tuneyard.delivery.journal import Journal, OpenJournal, read_journal
from tuneyard.delivery.report import Delivered, Status, tell
from tuneyard.delivery.selection import Selection, some
from tuneyard.delivery.sources import Source, SourceFile, is_tools
from tuneyard.errors import ConflictError, IntegrityError, InvalidValuesError, NotFoundError, UnavailableError
from tuneyard.progress import Advance, progress_bar
from tuneyard.store import FileEntry, Kind, Manifest, Store, check_relative, read_manifest, write_manifest
from tuneyard.whereabouts import more_room

_PARALLEL_FILES = 4
_FEW_FILES = 4


@dataclass(frozen=True, slots=True)
class Target:
    """A place to deliver to.

    Attributes:
        store: The store.
        prefix: What the files' paths are relative to; ends at a `/`.
        manifest_key: Where the manifest goes.
        journal_key: Where the journal lies meanwhile.
        kind: What the manifest says it is.
        key: The place in the user's words.
        setting: The values' key that names the place.
        only: The one path that is delivered, where the prefix is shared with others; None where all of it is its own.
    """

    store: Store
    prefix: str
    manifest_key: str
    journal_key: str
    kind: Kind
    key: str
    setting: str
    only: str | None = None

    def owned(self, keys: Iterable[str]) -> frozenset[str]:
        """Keep the keys of this delivery's own content.

        Manifests and journals are content of the bucket, which others may write: whatever they name, nothing is
        deleted that lies outside the place that the values name.

        Args:
            keys: Whole keys, from a manifest or a journal.
        """
        return frozenset(key for key in keys if key.startswith(self.prefix) and self._is_own(key[len(self.prefix) :]))

    def _is_own(self, path: str) -> bool:
        if self.only is not None:
            return path == self.only
        try:
            return not is_tools(check_relative(path))
        except InvalidValuesError:
            return False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is to be done: `status` at the end, files that need no transfer, objects to remove."""

    status: Status
    done: dict[str, Held]
    stale: frozenset[str]
    journal: Journal | None


def _check_nothing() -> None:
    """Accept any files: what data holds is checked where it is trained on."""


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
    """Deliver the chosen files of a source.

    Args:
        target: Where to.
        source: Where from.
        selection: Which of its files.
        about: Facts for the manifest besides the source's own.
        allow_overwrite: Replace what is there and differs.
        stop: Ends the transfers early when set; it is set when one of them fails.
        check: Called when all files are in the store and before the manifest is; raises where they must not be used.

    Returns:
        What was done.

    Raises:
        ConflictError: Something else is there and may not be replaced, or another process delivers to the same place.
        IntegrityError: A file is not what its source declares.
        NotFoundError, DeniedError, UnavailableError: The source or the store is not there or can't be had.
    """
    plan = _plan(target, source, selection, allow_overwrite=allow_overwrite)
    if isinstance(plan, Manifest):
        _bring_facts_up_to_date(target, plan, _facts(source, selection, _held(plan), about))
        return _delivered(target, source, selection, plan, status="unchanged")
    files = selection.files
    rest = [file for file in files if file.path not in plan.done]
    _check_room(target, source, rest)
    stale = target.owned(plan.stale)
    journal = OpenJournal(
        target.store, target.journal_key, plan.journal, done=plan.done, stale=stale, source=source.name
    )
    target.store.delete([target.manifest_key])
    if plan.done:
        tell(f"{len(plan.done)} of {len(files)} files of {source.name} are at {target.key} already")
    _transfer(target, source, rest, journal, stop)
    manifest = Manifest(
        kind=target.kind,
        files=tuple(FileEntry(path, held.size, held.sha256) for path, held in journal.done.items()),
        about=_facts(source, selection, journal.done, about),
    )
    _check_present(target, manifest)
    check()
    journal.confirm()
    target.store.delete(sorted(stale))
    write_manifest(target.store, target.manifest_key, manifest)
    journal.remove()
    return _delivered(target, source, selection, manifest, status=plan.status, rest=rest)


def _plan(target: Target, source: Source, selection: Selection, *, allow_overwrite: bool) -> _Plan | Manifest:
    """Compare with what is there; a manifest where there is nothing to do."""
    journal = read_journal(target.store, target.journal_key)
    sizes = object_sizes(target, [file.path for file in selection.files])
    chosen = {file.path: file for file in selection.files}
    manifest = _manifest_there(target, allow_overwrite=allow_overwrite)
    if manifest is not None:
        held = _held(manifest)
        same = {path for path, file in chosen.items() if path in held and same_content(source, file, held[path])}
        stale = frozenset(target.prefix + path for path in held if path not in chosen)
        if stale or len(same) < len(chosen):
            if not allow_overwrite:
                raise _differs(target, source, chosen, held, same)
        elif all(sizes.get(path) == held[path].size for path in held):
            if journal is not None:  # killed between the manifest and the journal's removal
                target.store.delete([target.journal_key])
            return manifest
        else:
            tell(
                f"some of the files that the manifest of {target.key} names are damaged or gone; delivering them again"
            )
        done = {path: held[path] for path in same if sizes.get(path) == held[path].size}
        return _Plan("replaced" if stale or len(same) < len(chosen) else "delivered", done, stale, journal)
    if journal is not None:
        done = {
            path: held
            for path, held in journal.done.items()
            if path in chosen and sizes.get(path) == held.size and same_content(source, chosen[path], held)
        }
        gone = frozenset(target.prefix + path for path in journal.done if path not in chosen)
        return _Plan("delivered", done, (journal.stale - {target.prefix + path for path in chosen}) | gone, journal)
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


def _bring_facts_up_to_date(target: Target, manifest: Manifest, facts: dict[str, Any]) -> None:
    """Note the newest commit or script that the same content came from; another kind of source changes nothing."""
    before: Any = manifest.about.get("source")
    kind = cast("dict[str, Any]", before).get("kind") if isinstance(before, dict) else None
    if kind == facts["source"]["kind"] and dict(manifest.about) != facts:
        write_manifest(target.store, target.manifest_key, Manifest(manifest.kind, manifest.files, facts), replace=True)


def _manifest_there(target: Target, *, allow_overwrite: bool) -> Manifest | None:
    try:
        return read_manifest(target.store, target.manifest_key)
    except NotFoundError:
        return None
    except IntegrityError:
        if not allow_overwrite:
            raise
        return None


def _adopt(
    target: Target, source: Source, chosen: dict[str, SourceFile], sizes: dict[str, int], *, allow_overwrite: bool
) -> dict[str, Held]:
    """Take over objects that someone put there without a manifest, where they are the same; never write over others."""
    if not sizes:
        return {}
    tell(f"{len(sizes)} objects lie at {target.key} without a manifest; comparing them with {source.name}")
    done: dict[str, Held] = {}
    for path, size in sizes.items():
        if size != chosen[path].size:
            continue
        held = Held(size=size, sha256=_stored_sha256(target.store, target.prefix + path), version=chosen[path].version)
        # the version is the source's, so it may not vouch for the bytes here
        if same_content(source, chosen[path], Held(held.size, held.sha256)):
            done[path] = held
    others = sorted(sizes.keys() - done.keys())
    if others and not allow_overwrite:
        raise ConflictError(
            f"Objects without a manifest lie at {target.key} and differ from {source.name}: {some(others)}.",
            hint=_HINT.format(setting=target.setting),
            key=target.key,
            differing=others,
        )
    return done


def _check_room(target: Target, source: Source, files: list[SourceFile]) -> None:
    """Before anything is fetched, look whether a folder's disk can hold it, whatever sizes a source declares."""
    place = target.store.local_path(target.manifest_key)
    if place is None:
        return
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, sum(file.size for file in files)
    if needed > free:
        raise UnavailableError(
            f"There is no room for {source.name} at {target.key} in {target.store.url}: "
            f"it needs {needed} bytes, and {free} are free.",
            hint=f"{more_room(place)}; or deliver to another store.",
            key=target.key,
            needed=needed,
            free=free,
        )


def _transfer(
    target: Target, source: Source, files: list[SourceFile], journal: OpenJournal, stop: threading.Event
) -> None:
    if not files:
        return

    def one(file: SourceFile, advance: Advance) -> None:
        if stop.is_set():
            raise CancelledError
        chunks = checked(source, file, advance=advance, stop=stop)
        digest = target.store.write(target.prefix + file.path, chunks)
        journal.add(file.path, Held(size=digest.size, sha256=digest.sha256, version=file.version))

    total = sum(file.size for file in files)
    largest_first = sorted(files, key=lambda file: -file.size)  # so that no large one is left to run alone at the end
    with (
        progress_bar(f"Delivering {source.name}", total, "bytes") as advance,
        ThreadPoolExecutor(_PARALLEL_FILES, thread_name_prefix="deliver") as pool,
    ):
        futures = [pool.submit(one, file, advance) for file in largest_first]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if any(not future.done() or future.exception() for future in futures):
                stop.set()
            for future in futures:
                future.cancel()
    failures = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in failures:
        if not isinstance(error, CancelledError):
            raise error


def _check_present(target: Target, manifest: Manifest) -> None:
    """Ask the store for every file once more before a manifest vouches for them."""
    sizes = object_sizes(target, [entry.path for entry in manifest.files])
    for entry in manifest.files:
        if sizes.get(entry.path) != entry.size:
            raise IntegrityError(
                f"The store holds {sizes.get(entry.path, 'no')} bytes at {target.prefix}{entry.path}, "
                f"and {entry.size} were written.",
                hint="Run it again; another process may have written to the same place.",
                key=target.prefix + entry.path,
            )


def object_sizes(target: Target, paths: list[str]) -> dict[str, int]:
    """Ask a store which of some files it holds, and how large they are.

    Args:
        target: Where they would be.
        paths: Their paths, relative to the target's prefix.

    Returns:
        The sizes in bytes of those that are there.
    """
    if len(paths) > _FEW_FILES:
        wanted = frozenset(paths)
        listed = ((info.key.removeprefix(target.prefix), info.size) for info in target.store.list(target.prefix))
        return {path: size for path, size in listed if path in wanted}
    sizes: dict[str, int] = {}
    for path in paths:
        try:
            sizes[path] = target.store.head(target.prefix + path).size
        except NotFoundError:
            continue
    return sizes


_HINT = "Set allowOverwrite to true to replace it, or choose another {setting}."


def _differs(
    target: Target, source: Source, chosen: dict[str, SourceFile], held: dict[str, Held], same: set[str]
) -> ConflictError:
    groups = {
        "differ": sorted(path for path in chosen if path in held and path not in same),
        "are new": sorted(path for path in chosen if path not in held),
        "are gone": sorted(path for path in held if path not in chosen),
    }
    words = "; ".join(f"{len(paths)} {what} ({some(paths)})" for what, paths in groups.items() if paths)
    return ConflictError(
        f"What is at {target.key} in {target.store.url} is not {source.name}: of the files, {words}.",
        hint=_HINT.format(setting=target.setting),
        key=target.key,
        differing=groups["differ"],
        new=groups["are new"],
        gone=groups["are gone"],
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
        key=target.key,
        status=status,
        source=source.name,
        content_sha256=manifest.content_sha256,
        files=len(manifest.files),
        size=manifest.size,
        transferred_files=len(moved),
        transferred_bytes=sum(file.size for file in moved),
        left_out=selection.left_out,
    )
