"""The store in a folder (`file:///…`): each object is a plain file at `root/bucket/path`.

Bytes go through the operating system and not through obstore's `LocalStore`, which has no conditional update, no fsync
and leaves half-written files beside their targets. Here every write goes to `root/.store/tmp`, is synced, and is then
renamed under a lock on its key; all changes of one key take that lock, so a check and the rename after it are one step.
What a killed writer leaves in `.store/tmp` is never visible, and the next process that opens the store removes it.

Any program that may write to the folder may also break these guarantees: it is the user's disk, not a server.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from tuneyard.errors import (
    AlreadyExistsError,
    ChangedError,
    ConflictError,
    DeniedError,
    FullError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.folders import HOME_VARIABLE, home_folder, kind_of
from tuneyard.store.keys import split_key, split_prefix
from tuneyard.store.limits import CHUNK_BYTES
from tuneyard.store.objects import Digest, ObjectInfo, Stored, sorted_by_key
from tuneyard.whereabouts import assignment, command, fitting, more_room

_OWN = ".store"  # no bucket can have this name
_LOCKS = 64  # keys share lock files, so that their number stays bounded
_LOCK_SECONDS = 60.0
_HASHED_BYTES = 1024 * 1024  # files up to this size have their content's hash for an etag


class FolderStore:
    """A `Store` in a folder of this machine.

    Safe for any number of processes on one machine, and over NFS where it forwards `flock`. Etags are content hashes
    up to 1 MiB, so two bodies never share one; above that, size, inode and times.

    Args:
        root: The folder; created on the first write.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100  (Path.resolve would follow links)
        if self._root.exists() and not self._root.is_dir():
            raise ConflictError(f"The store's folder '{self._root}' is a file.", hint=self._hint)
        self._sweep()

    @property
    def url(self) -> str:
        """The folder as a `file://` URL."""
        return self._root.as_uri()

    def __repr__(self) -> str:
        return f"FolderStore({str(self._root)!r})"

    def local_path(self, key: str) -> Path:
        """Return the path of the object's file."""
        bucket, path = split_key(key)
        return self._root / bucket / path

    def get(self, key: str) -> Stored:
        """Read a whole small object."""
        with self._failures(key), _open_for_reading(self.local_path(key)) as file:
            body = file.read()
            return Stored(body=body, etag=_etag_of(os.fstat(file.fileno()), body))

    def put(self, key: str, body: bytes) -> str:
        """Write a small object, replacing any other; atomic."""
        return self._publish(key, [body])[0]

    def create(self, key: str, body: bytes) -> str:
        """Write a small object only where none exists; one writer wins."""

        def check_absent(target: Path) -> None:
            if os.path.lexists(target):
                raise AlreadyExistsError(f"There is already an object at '{key}' in '{self.url}'.", key=key)

        return self._publish(key, [body], check=check_absent)[0]

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the version of a small object that `etag` names; one writer wins."""

        def check_version(target: Path) -> None:
            found = _etag_at(target)
            if found != etag:
                raise ChangedError(
                    f"The object at '{key}' in '{self.url}' is no longer the version that was read.",
                    key=key,
                    expected=etag,
                    found=found or "",
                )

        return self._publish(key, [body], check=check_version)[0]

    def head(self, key: str) -> ObjectInfo:
        """Return an object's size, version and time."""
        path = self.local_path(key)
        with self._failures(key), _open_for_reading(path) as file:
            return _info(key, os.fstat(file.fileno()), file)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix, sorted by key."""
        bucket, path = split_prefix(prefix)
        found: list[ObjectInfo] = []
        with self._failures(prefix):
            for file_path, key in _walk(self._root / bucket / path, prefix, frozenset()):
                # a file may be deleted between the listing and its opening
                with contextlib.suppress(FileNotFoundError), _open_for_reading(file_path) as file:
                    found.append(_info(key, os.fstat(file.fileno()), file))
        return iter(sorted_by_key(found))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that this leaves empty; missing ones are ignored."""
        for key in keys:
            target = self.local_path(key)
            with self._failures(key):
                if not os.path.lexists(target):
                    continue
                self._refuse_link_outside(target, key)
                with self._lock(key), contextlib.suppress(FileNotFoundError, IsADirectoryError):
                    target.unlink()
                self._remove_empty_folders(target.parent)

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream; atomic."""
        return self._publish(key, chunks)[1]

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream; an open file stays the version it was."""
        with self._failures(key), _open_for_reading(self.local_path(key)) as file:
            file.seek(offset)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def _publish(
        self, key: str, chunks: Iterable[bytes], *, check: Callable[[Path], None] | None = None
    ) -> tuple[str, Digest]:
        target = self.local_path(key)
        with contextlib.ExitStack() as stack:
            with self._failures(key, writing=True):
                self._refuse_link_outside(target, key)
                file, temporary = stack.enter_context(self._temporary())
            digest = self._copy(chunks, file, key)
            with self._failures(key, writing=True):
                file.flush()
                os.fsync(file.fileno())
                etag = _etag_of_written(file, digest)
                with self._lock(key):
                    if check:
                        check(target)
                    self._rename(temporary, target, key)
        return etag, digest

    def _copy(self, chunks: Iterable[bytes], file: BinaryIO, key: str) -> Digest:
        digest, size = hashlib.sha256(), 0
        for chunk in chunks:  # errors of the iterator are its own, not the store's
            digest.update(chunk)
            size += len(chunk)
            with self._failures(key, writing=True):
                file.write(chunk)
        return Digest(size=size, sha256=digest.hexdigest())

    def _rename(self, temporary: Path, target: Path, key: str) -> None:
        named: set[Path] = {target.parent}  # folders with a new name in them
        while True:
            try:
                named |= {folder.parent for folder in target.parents if not folder.exists()}
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary.rename(target)
            except FileNotFoundError:
                # a concurrent delete removed the empty folder between the two calls
                if temporary.exists():
                    continue
                raise
            except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
                raise ConflictError(
                    f"The key '{key}' can't be written in '{self.url}': an object lies above or below it.",
                    hint="Choose a key that is neither a folder of objects nor below an object.",
                    key=key,
                ) from error
            break
        for folder in sorted(named, reverse=True):
            _sync_folder(folder)

    @contextlib.contextmanager
    def _temporary(self) -> Generator[tuple[BinaryIO, Path]]:
        folder = self._root / _OWN / "tmp"
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / secrets.token_hex(16)
            file = path.open("x+b")
            fcntl.flock(file, fcntl.LOCK_EX)  # a sweep leaves locked files alone
            if path.exists():
                break
            file.close()  # a sweep was faster than the lock
        try:
            yield file, path
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # what is kept is flushed; the rest may find no space
                file.close()

    def _sweep(self) -> None:
        try:
            leftovers = list((self._root / _OWN / "tmp").iterdir())
        except OSError:
            return
        for path in leftovers:
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    @contextlib.contextmanager
    def _lock(self, key: str) -> Generator[None]:
        folder = self._root / _OWN / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{hashlib.sha256(key.encode()).digest()[0] % _LOCKS:02d}"
        deadline = time.monotonic() + _LOCK_SECONDS
        wait_seconds = 0.001
        with path.open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise UnavailableError(
                            f"Another process has held the lock of '{key}' in '{self.url}' for {_LOCK_SECONDS:.0f} s.",
                            hint=f"Check for a suspended process of Tuneyard: {command('tuneyard runs')}",
                            key=key,
                        ) from error
                    time.sleep(wait_seconds)
                    wait_seconds = min(2 * wait_seconds, 0.05)
            yield

    def _refuse_link_outside(self, target: Path, key: str) -> None:
        real, root = target.parent.resolve(), self._root.resolve()
        if real != root and root not in real.parents:
            raise DeniedError(
                f"The key '{key}' of '{self.url}' leads out of the store, by a symbolic link to '{real}'.",
                hint="Tuneyard writes only within the store's folder. Use the link's target as the store.",
                key=key,
            )

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder.parent != self._root and self._root in folder.parents:  # the bucket itself stays
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent

    @contextlib.contextmanager
    def _failures(self, key: str, *, writing: bool = False) -> Generator[None]:
        try:
            yield
        except TuneyardError:
            raise
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            if writing:
                raise self._refused(key, error) from error
            raise NotFoundError(f"There is no object at '{key}' in '{self.url}'.", key=key, store=self.url) from error
        except OSError as error:
            raise self._refused(key, error) from error

    def _refused(self, key: str, error: OSError) -> TuneyardError:
        kind = kind_of(error)
        hint = more_room(self._root) if issubclass(kind, FullError) else self._hint
        text = f"The object '{key}' can't be read or written in '{self.url}': {error.strerror}."
        return kind(text, hint=hint, key=key, store=self.url)

    @property
    def _hint(self) -> str:
        look = fitting(f"Check who owns it (ls -ld {self._root})", "Check the pod's volume")
        names = fitting("--store URL or export TUNEYARD_STORE=URL", assignment("TUNEYARD_STORE", "URL"))
        with contextlib.suppress(TuneyardError):
            if home_folder() in self._root.parents:
                names += fitting(f", or move all of Tuneyard's folder: {assignment(HOME_VARIABLE, '/path')}", "")
        return f"{look}, or name another store: {names}"


def _open_for_reading(path: Path) -> BinaryIO:
    return path.open("rb")


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[Path, str]]:
    """Yield every file under a folder with its key; a folder that links to itself is entered once."""
    try:
        status = folder.stat()
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in entries:
        try:
            mode = entry.stat().st_mode
        except FileNotFoundError:  # deleted meanwhile, or a broken link
            continue
        if S_ISDIR(mode):
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
        elif S_ISREG(mode):
            yield Path(entry.path), prefix + entry.name


def _info(key: str, status: os.stat_result, file: BinaryIO) -> ObjectInfo:
    body = file.read() if status.st_size <= _HASHED_BYTES else None
    etag = _etag_of(status, body)
    return ObjectInfo(key=key, size=status.st_size, etag=etag, modified=datetime.fromtimestamp(status.st_mtime, tz=UTC))


def _etag_at(path: Path) -> str | None:
    try:
        with _open_for_reading(path) as file:
            return _info("", os.fstat(file.fileno()), file).etag
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _etag_of(status: os.stat_result, body: bytes | None) -> str:
    if body is not None and len(body) <= _HASHED_BYTES:
        return hashlib.sha256(body).hexdigest()
    return _etag_of_status(status)


def _etag_of_written(file: BinaryIO, digest: Digest) -> str:
    return digest.sha256 if digest.size <= _HASHED_BYTES else _etag_of_status(os.fstat(file.fileno()))


def _etag_of_status(status: os.stat_result) -> str:
    # not the change time, which a rename updates
    return f"{status.st_size:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
