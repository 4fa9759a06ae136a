"""One committed checkpoint, brought into a working folder that the trainer may write into.

Unlike `store.pull` it always makes a copy of its own, also from a folder store: a trainer that deletes or rewrites
files of its working folder must never reach the committed ones. The folder appears under its name when it is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

from tuneyard.checkpoints.head import CheckpointRef, ref_from_facts
from tuneyard.checkpoints.seal import check_seal
from tuneyard.errors import IntegrityError, NotFoundError
from tuneyard.progress import Advance
from tuneyard.store import FileEntry, Manifest, Store, download, hash_file, read_manifest
from tuneyard.store.limits import PARALLEL_FILES


def lacking(required: Iterable[str], paths: Iterable[str]) -> list[str]:
    """Tell which required files are not among some paths.

    Args:
        required: Names or shell patterns (`rng_state*.pth`); each has to match at least one path.
        paths: Paths relative to the checkpoint.
    """
    there = list(paths)
    return sorted(pattern for pattern in required if not any(fnmatchcase(path, pattern) for path in there))


def read_checkpoint(store: Store, ref: CheckpointRef, required: Iterable[str]) -> Manifest:
    """Read a checkpoint's manifest and check that it is this checkpoint's, undamaged, and names what is required.

    Raises:
        IntegrityError: It is missing or damaged, another checkpoint's, or names too little to go on from.
    """
    where = ref.manifest_key
    try:
        manifest = read_manifest(store, where)
    except NotFoundError as error:
        raise IntegrityError(f"{where} is not there, and HEAD names it.", key=where) from error
    check_seal(manifest.about, where=where)
    about = manifest.about
    if manifest.kind != "checkpoint" or (about.get("step"), about.get("attempt")) != (ref.step, ref.attempt):
        raise IntegrityError(f"{where} is another checkpoint's manifest.", key=where)
    ref_from_facts(ref.key.rpartition("/")[0], about.get("best"))
    missing = lacking(required, (entry.path for entry in manifest.files))
    if missing:
        raise IntegrityError(f"{where} does not name {', '.join(missing)}.", key=where, missing=missing)
    return manifest


def fetch(store: Store, key: str, manifest: Manifest, folder: Path, *, advance: Advance | None = None) -> Path:
    """Make a folder that holds exactly the files of a manifest, each verified.

    Files that are there already (from before a crash) and verify are kept and not read from the store again.

    Args:
        store: Where from.
        key: Where the manifest's files lie, without a `/` at the end.
        manifest: Which files.
        folder: The folder to make; what else is in it is deleted.
        advance: Called, from several threads, with the bytes of each chunk; `manifest.size` in all.

    Returns:
        The folder.

    Raises:
        IntegrityError: A file is missing in the store or differs from the manifest; nothing appears under the name.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if folder.exists():
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
    partial.mkdir(parents=True, exist_ok=True)
    _delete_others(partial, manifest)

    def one(entry: FileEntry) -> None:
        _fetch_file(store, f"{key}/{entry.path}", partial / entry.path, entry, advance)

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(one, entry) for entry in manifest.files]
        try:
            for future in futures:
                future.result()
        except IntegrityError:
            pool.shutdown(cancel_futures=True)
            shutil.rmtree(partial)  # it can't become whole, and may be large
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    partial.rename(folder)
    return folder


def _fetch_file(store: Store, key: str, path: Path, entry: FileEntry, advance: Advance | None) -> None:
    if path.is_file() and path.stat().st_size == entry.size and hash_file(path).sha256 == entry.sha256:
        if advance:
            advance(entry.size)
        return
    try:
        download(store, key, path, expect=entry, advance=advance)
    except NotFoundError as error:
        raise IntegrityError(f"{key} is not there, and its manifest names it.", key=key) from error


def _delete_others(folder: Path, manifest: Manifest) -> None:
    named = {folder / entry.path for entry in manifest.files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path in file.parents for file in named):
                path.rmdir()
        elif path not in named or path.is_symlink():
            path.unlink()
