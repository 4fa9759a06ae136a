"""Downloads one committed checkpoint to a working folder that the trainer may write to.

Unlike `store.pull` it always copies, also from a folder store: a trainer that deletes or rewrites files of its working
folder must never reach the committed ones. The folder appears under its name once it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from tuneyard.checkpoints.head import CheckpointRef, ref_from_facts
from tuneyard.checkpoints.seal import check_seal
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.progress import Advance
from tuneyard.store import FileEntry, Manifest, Store, download, hash_file, in_parallel, read_manifest


def lacking(required: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Return the required files that are missing from some paths.

    Args:
        required: Names or shell patterns (`rng_state*.pth`); each must match at least one path.
        paths: Paths relative to the checkpoint.
    """
    present = list(paths)
    return sorted(pattern for pattern in required if not any(fnmatchcase(path, pattern) for path in present))


def read_checkpoint(store: Store, ref: CheckpointRef, required: Iterable[str]) -> Manifest:
    """Read a checkpoint's manifest, and check that it is this checkpoint's, undamaged, and names the required files.

    Raises:
        IntegrityError: It is missing, damaged or another checkpoint's, or lacks a required file.
    """
    where = ref.manifest_key
    try:
        manifest = read_manifest(store, where)
    except NotFoundError as error:
        raise IntegrityError(f"'{where}' is missing, but HEAD names it.", key=where) from error
    check_seal(manifest.about, where=where)
    about = manifest.about
    if manifest.kind != "checkpoint" or (about.get("step"), about.get("attempt")) != (ref.step, ref.attempt):
        raise IntegrityError(f"'{where}' is the manifest of another checkpoint.", key=where)
    ref_from_facts(ref.key.rpartition("/")[0], about.get("best"))
    missing = lacking(required, (entry.path for entry in manifest.files))
    if missing:
        raise IntegrityError(f"'{where}' does not name {', '.join(missing)}.", key=where, missing=missing)
    return manifest


def fetch(store: Store, key: str, manifest: Manifest, folder: Path, *, advance: Advance | None = None) -> Path:
    """Create a folder that holds exactly the files of a manifest, each verified.

    Files that are already there (from before a crash) and verify are kept and not downloaded again.

    Args:
        store: The store to download from.
        key: The checkpoint's key, without a trailing `/`.
        manifest: The files.
        folder: The folder to create; other files in it are deleted.
        advance: Called, from several threads, with the bytes of each chunk; `manifest.size` in all.

    Returns:
        The folder.

    Raises:
        IntegrityError: A file is missing in the store or differs from the manifest; the folder is not created.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
    partial.mkdir(parents=True, exist_ok=True)
    _delete_others(partial, manifest)

    def one(entry: FileEntry, advance: Advance) -> None:
        _fetch_file(store, f"{key}/{entry.path}", partial / entry.path, entry, advance)

    try:
        in_parallel(one, manifest.files, advance)
    except IntegrityError:
        shutil.rmtree(partial)  # it can't become whole, and may be large
        raise
    partial.rename(folder)
    return folder


def _fetch_file(store: Store, key: str, path: Path, entry: FileEntry, advance: Advance) -> None:
    if path.is_file() and path.stat().st_size == entry.size and hash_file(path).sha256 == entry.sha256:
        advance(entry.size)
        return
    try:
        download(store, key, path, expect=entry, advance=advance)
    except NotFoundError as error:
        raise IntegrityError(f"'{key}' is missing, but its manifest names it.", key=key) from error


def _delete_others(folder: Path, manifest: Manifest) -> None:
    named = {folder / entry.path for entry in manifest.files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path in file.parents for file in named):
                path.rmdir()
        elif path not in named or path.is_symlink():
            path.unlink()
