"""Files to and from a store: hashed on the way, verified before they are visible under their names.

`upload` and `download` move one file, `upload_tree` and `pull` a folder with `limits.PARALLEL_FILES` at once, `verify`
and `verify_folder` only read and compare. None of them writes or deletes a manifest: that stays the caller's last step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from tuneyard.errors import IntegrityError, NotFoundError, TuneyardError
from tuneyard.progress import Advance
from tuneyard.store.limits import CHUNK_BYTES, PARALLEL_FILES
from tuneyard.store.manifest import FileEntry, Manifest
from tuneyard.store.objects import Digest, Store

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_PARTIAL = ".tuneyard-partial-"
_HINT = "Deliver or publish it again; the bytes that are there can't be used."


def upload(store: Store, path: Path, key: str, *, advance: Advance | None = None) -> Digest:
    """Upload one file, and ask the store whether all of it arrived.

    Args:
        store: Where to.
        path: The file.
        key: Its key there.
        advance: Called with the bytes of each chunk read.

    Returns:
        Size and SHA-256 of the bytes sent.

    Raises:
        NotFoundError: The file is not there.
        IntegrityError: The store holds another number of bytes than were sent.
    """
    digest = store.write(key, _file_chunks(path, advance))
    held = store.head(key).size
    if held != digest.size:
        raise IntegrityError(
            f"{store.url} holds {held} bytes of {key}, and {digest.size} were sent.",
            hint="Upload it again.",
            key=key,
            expected=digest.size,
            found=held,
        )
    return digest


def upload_tree(store: Store, folder: Path, prefix: str, *, advance: Advance | None = None) -> list[FileEntry]:
    """Upload every file of a folder, however deep, several at once.

    A crash leaves some of the files; nobody trusts them before a manifest names them.

    Args:
        store: Where to.
        folder: The folder; links to files in it are followed.
        prefix: Where its files go; ends at a `/`.
        advance: Called, from several threads, with the bytes of each chunk read.

    Returns:
        The files, sorted by path, as a manifest takes them.

    Raises:
        NotFoundError: The folder is not there.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder {folder} to upload.", path=str(folder))
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def one(path: str, advance: Advance) -> FileEntry:
        digest = upload(store, folder / path, prefix + path, advance=advance)
        return FileEntry(path=path, size=digest.size, sha256=digest.sha256)

    return sorted(_in_parallel(one, paths, advance))


def download(store: Store, key: str, path: Path, *, expect: FileEntry, advance: Advance | None = None) -> None:
    """Download one object; the file appears under its name only when it is whole and right.

    A crash leaves at most a hidden partial file beside it, which the next `pull` into the folder removes.

    Args:
        store: Where from.
        key: The object.
        path: The file to make; its folder is made too, and a file that is there is replaced.
        expect: The size and SHA-256 it has to have.
        advance: Called with the bytes of each chunk.

    Raises:
        NotFoundError: The object is not there.
        IntegrityError: Its size or SHA-256 is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _check(key, expect, _digest(_counted(store.read(key), expect.size), advance, file.write))
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def pull(store: Store, prefix: str, manifest: Manifest, folder: Path, *, advance: Advance | None = None) -> Path:
    """Bring every file of a manifest to this machine, each verified before it is visible under its name.

    Files that are in the folder already and verify are kept, so a killed pull goes on where it was. From a folder store
    nothing is copied: the files are verified where they lie, and linked to. What the manifest does not name is never in
    the folder, whatever lies beside it in the store: libraries look for files by name.

    Args:
        store: Where from.
        prefix: Where the manifest's files lie; ends at a `/`.
        manifest: Which files.
        folder: Where to; what else is in it is removed.
        advance: Called, from several threads, with the bytes of each chunk; `manifest.size` in all.

    Returns:
        The folder that holds the files: read from it, never write into it.

    Raises:
        NotFoundError: A file that the manifest names is not in the store.
        IntegrityError: A file has another size or SHA-256 than the manifest says.
    """
    if manifest.files:
        first = manifest.files[0].path
        local = store.local_path(prefix + first)
        if local is not None:
            verify(store, prefix, manifest, advance=advance)
            return link_named(_above(local, first), manifest, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.rglob(f"{_PARTIAL}*"):
        partial.unlink(missing_ok=True)

    def one(entry: FileEntry, advance: Advance) -> None:
        path = folder / entry.path
        if path.is_file() and path.stat().st_size == entry.size and _digest(_file_chunks(path)).sha256 == entry.sha256:
            advance(entry.size)
            return
        download(store, prefix + entry.path, path, expect=entry, advance=advance)

    _in_parallel(one, manifest.files, advance)
    named = {folder / entry.path for entry in manifest.files}
    for path in folder.rglob("*"):
        if path not in named and (path.is_file() or path.is_symlink()):
            path.unlink()
    return folder


def link_named(folder: Path, manifest: Manifest, target: Path) -> Path:
    """Make a folder of links to the files that a manifest names, and to nothing else.

    Args:
        folder: Where the files lie.
        manifest: Which files.
        target: The folder to make; removed first where it is there.

    Returns:
        The folder.
    """
    shutil.rmtree(target, ignore_errors=True)
    for entry in manifest.files:
        link = target / entry.path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((folder / entry.path).absolute())
    return target


def verify(store: Store, prefix: str, manifest: Manifest, *, advance: Advance | None = None) -> None:
    """Read every file of a manifest in the store and compare; nothing is kept.

    Args:
        store: Where the files lie.
        prefix: Under which prefix; ends at a `/`.
        manifest: Which files, with what sizes and hashes.
        advance: Called, from several threads, with the bytes of each chunk.

    Raises:
        IntegrityError: A file is missing, or has another size or SHA-256.
    """

    def one(entry: FileEntry, advance: Advance) -> None:
        key = prefix + entry.path
        try:
            _check(key, entry, _digest(_counted(store.read(key), entry.size), advance))
        except NotFoundError as error:
            raise _missing(key, entry) from error

    _in_parallel(one, manifest.files, advance)


def verify_folder(folder: Path, manifest: Manifest, *, advance: Advance | None = None) -> None:
    """Read every file of a manifest in a folder of this machine and compare.

    Args:
        folder: Where the files lie; what the manifest does not name is passed over.
        manifest: Which files, with what sizes and hashes.
        advance: Called, from several threads, with the bytes of each chunk.

    Raises:
        IntegrityError: A file is missing, or has another size or SHA-256.
    """

    def one(entry: FileEntry, advance: Advance) -> None:
        path = folder / entry.path
        try:
            _check(str(path), entry, _digest(_counted(_file_chunks(path), entry.size), advance))
        except NotFoundError as error:
            raise _missing(str(path), entry) from error

    _in_parallel(one, manifest.files, advance)


def hash_file(path: Path, *, advance: Advance | None = None) -> Digest:
    """Read a file of this machine for its size and SHA-256.

    Raises:
        NotFoundError: It is not there.
    """
    return _digest(_file_chunks(path, advance))


def _in_parallel(
    work: Callable[[_Item, Advance], _Result], items: Iterable[_Item], advance: Advance | None
) -> list[_Result]:
    """Do a piece of work for each item on a few threads; the first error, or Ctrl-C, stops all of them."""
    stop = threading.Event()

    def advance_or_stop(amount: float) -> None:
        if stop.is_set():
            raise CancelledError
        if advance:
            advance(amount)

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(work, item, advance_or_stop) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            first = next((future for future in futures if future.done() and future.exception()), None)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
        return [future.result() for future in ([first] if first else futures)]


def _above(path: Path, relative: str) -> Path:
    return path.parents[relative.count("/")]


def _file_chunks(path: Path, advance: Advance | None = None) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                if advance:
                    advance(len(chunk))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise NotFoundError(f"There is no file {path}.", path=str(path)) from error


def _counted(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Pass chunks on, but stop soon after `limit`: an object far too long would only fill the disk."""
    seen = 0
    for chunk in chunks:
        yield chunk
        seen += len(chunk)
        if seen > limit:
            return


def _digest(
    chunks: Iterable[bytes], advance: Advance | None = None, keep: Callable[[bytes], object] | None = None
) -> Digest:
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        if keep:
            keep(chunk)
        if advance:
            advance(len(chunk))
    return Digest(size=size, sha256=digest.hexdigest())


def _check(where: str, expect: FileEntry, found: Digest) -> None:
    if found.size != expect.size:
        size = f"more than {expect.size}" if found.size > expect.size else f"only {found.size}"
        raise IntegrityError(
            f"{where} has {size} bytes, and its manifest says {expect.size}.",
            hint=_HINT,
            key=where,
            expected=expect.size,
            found=found.size,
        )
    if found.sha256 != expect.sha256:
        raise IntegrityError(
            f"{where} has the SHA-256 {found.sha256}, and its manifest says {expect.sha256}.",
            hint=_HINT,
            key=where,
            expected=expect.sha256,
            found=found.sha256,
        )


def _missing(where: str, expect: FileEntry) -> TuneyardError:
    return IntegrityError(
        f"{where} is not there, and its manifest says {expect.size} bytes.", hint=_HINT, key=where, expected=expect.size
    )
