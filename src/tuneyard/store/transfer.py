"""Files to and from a store: hashed on the way, verified before they are visible under their names.

`upload` and `download` move one file, `upload_tree` and `pull` a folder, several files at once (`parallel`); `verify`
and `verify_folder` only read and compare. None of them writes or deletes a manifest: that stays the caller's last step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tuneyard.errors import IntegrityError, NotFoundError, TuneyardError
from tuneyard.progress import Advance
from tuneyard.store.limits import CHUNK_BYTES
from tuneyard.store.manifest import FileEntry, Manifest
from tuneyard.store.objects import Digest, Store
from tuneyard.store.parallel import in_parallel

_PARTIAL = ".tuneyard-partial-"
_HINT = "Deliver or publish it again: the bytes in the store can't be used."


def upload(store: Store, path: Path, key: str, *, advance: Advance | None = None) -> Digest:
    """Upload one file, and check that the store holds all of it.

    Args:
        store: The store to upload to.
        path: The file.
        key: Its key.
        advance: Called with the bytes of each chunk read.

    Returns:
        Size and SHA-256 of the bytes sent.

    Raises:
        NotFoundError: The file does not exist.
        IntegrityError: The store holds another number of bytes than were sent.
    """
    digest = store.write(key, _file_chunks(path, advance))
    held = store.head(key).size
    if held != digest.size:
        raise IntegrityError(
            f"The store '{store.url}' holds {held} bytes of '{key}', but {digest.size} were sent.",
            hint="Upload it again.",
            key=key,
            expected=digest.size,
            found=held,
        )
    return digest


def upload_tree(store: Store, folder: Path, prefix: str, *, advance: Advance | None = None) -> list[FileEntry]:
    """Upload every file of a folder, at any depth, several at once.

    A crash leaves some of the files, which no reader trusts before a manifest names them.

    Args:
        store: The store to upload to.
        folder: The folder; links to files in it are followed.
        prefix: The prefix of its files' keys; ends with a `/`.
        advance: Called, from several threads, with the bytes of each chunk read.

    Returns:
        The files for a manifest, sorted by path.

    Raises:
        NotFoundError: The folder does not exist.
    """
    if not folder.is_dir():
        raise NotFoundError(f"There is no folder '{folder}' to upload.", path=str(folder))
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def one(path: str, advance: Advance) -> FileEntry:
        digest = upload(store, folder / path, prefix + path, advance=advance)
        return FileEntry(path=path, size=digest.size, sha256=digest.sha256)

    return sorted(in_parallel(one, paths, advance))


def download(store: Store, key: str, path: Path, *, expect: FileEntry, advance: Advance | None = None) -> None:
    """Download one object; the file appears under its name only once it is complete and verified.

    A crash leaves at most a hidden partial file beside it, which the next `pull` into the folder removes.

    Args:
        store: The store to download from.
        key: The object.
        path: The file to create, with its folder; an existing file is replaced.
        expect: The expected size and SHA-256.
        advance: Called with the bytes of each chunk.

    Raises:
        NotFoundError: The object does not exist.
        IntegrityError: Its size or SHA-256 differs.
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
    """Download every file of a manifest, each verified before it is visible under its name.

    Files that are already in the folder and verify are kept, so a killed pull resumes. From a folder store nothing is
    copied: the files are verified in place and linked to. The folder never holds a file that the manifest does not
    name, whatever lies beside it in the store: libraries find files by name.

    Args:
        store: The store to download from.
        prefix: The prefix of the manifest's files; ends with a `/`.
        manifest: The files.
        folder: The folder to download to; other files in it are deleted.
        advance: Called, from several threads, with the bytes of each chunk; `manifest.size` in all.

    Returns:
        The folder that holds the files; never write to it.

    Raises:
        NotFoundError: A file that the manifest names is not in the store.
        IntegrityError: A file's size or SHA-256 differs from the manifest.
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

    in_parallel(one, manifest.files, advance)
    named = {folder / entry.path for entry in manifest.files}
    for path in folder.rglob("*"):
        if path not in named and (path.is_file() or path.is_symlink()):
            path.unlink()
    return folder


def link_named(folder: Path, manifest: Manifest, target: Path) -> Path:
    """Create a folder of links to the files that a manifest names.

    Args:
        folder: The folder of the files.
        manifest: The files.
        target: The folder to create; an existing one is replaced.

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
    """Verify every file of a manifest in the store.

    Args:
        store: The store.
        prefix: The prefix of the files; ends with a `/`.
        manifest: The files with their sizes and hashes.
        advance: Called, from several threads, with the bytes of each chunk.

    Raises:
        IntegrityError: A file is missing, or its size or SHA-256 differs.
    """

    def one(entry: FileEntry, advance: Advance) -> None:
        key = prefix + entry.path
        try:
            _check(key, entry, _digest(_counted(store.read(key), entry.size), advance))
        except NotFoundError as error:
            raise _missing(key, entry) from error

    in_parallel(one, manifest.files, advance)


def verify_folder(folder: Path, manifest: Manifest, *, advance: Advance | None = None) -> None:
    """Verify every file of a manifest in a local folder.

    Args:
        folder: The folder; files that the manifest does not name are ignored.
        manifest: The files with their sizes and hashes.
        advance: Called, from several threads, with the bytes of each chunk.

    Raises:
        IntegrityError: A file is missing, or its size or SHA-256 differs.
    """

    def one(entry: FileEntry, advance: Advance) -> None:
        path = folder / entry.path
        try:
            _check(str(path), entry, _digest(_counted(_file_chunks(path), entry.size), advance))
        except NotFoundError as error:
            raise _missing(str(path), entry) from error

    in_parallel(one, manifest.files, advance)


def hash_file(path: Path, *, advance: Advance | None = None) -> Digest:
    """Return the size and SHA-256 of a local file.

    Raises:
        NotFoundError: It does not exist.
    """
    return _digest(_file_chunks(path, advance))


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
        raise NotFoundError(f"There is no file '{path}'.", path=str(path)) from error


def _counted(chunks: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Yield chunks, but stop soon after `limit`: an object that is far too long would only fill the disk."""
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
            f"'{where}' has {size} bytes, but its manifest names {expect.size}.",
            hint=_HINT,
            key=where,
            expected=expect.size,
            found=found.size,
        )
    if found.sha256 != expect.sha256:
        raise IntegrityError(
            f"'{where}' has the SHA-256 {found.sha256}, but its manifest names {expect.sha256}.",
            hint=_HINT,
            key=where,
            expected=expect.sha256,
            found=found.sha256,
        )


def _missing(where: str, expect: FileEntry) -> TuneyardError:
    return IntegrityError(
        f"'{where}' is missing, but its manifest names it.", hint=_HINT, key=where, expected=expect.size
    )
