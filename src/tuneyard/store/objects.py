"""The contract of every object store: the `Store` protocol and the small values that its methods return.

`folder` and `s3` implement it, `tests/contract` tests both; nothing else may be assumed of a store. A key is always
`bucket/path/in/bucket` (`keys` defines which are allowed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object's metadata.

    Attributes:
        key: Its key, bucket first.
        size: Its size in bytes.
        etag: Identifies its version; two different bodies never share one.
        modified: The time of the last write, with a time zone.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """A small object: its bytes, and the version to pass to `Store.replace`."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The size in bytes and the SHA-256 (64 hex digits) of a stream."""

    size: int
    sha256: str


class Store(Protocol):
    """Bytes under keys.

    Every method raises `UnavailableError` where the store can't be reached, `DeniedError` where it denies access, and
    `NotFoundError` where the object or its bucket does not exist: three different outcomes. A store may be used from
    several threads at once.
    """

    @property
    def url(self) -> str:
        """The store's URL, without credentials; `open_store` accepts it."""
        ...

    def get(self, key: str) -> Stored:
        """Read a whole small object.

        Memory: the object's size. Use `read` for anything large.

        Raises:
            NotFoundError: It does not exist.
        """
        ...

    def put(self, key: str, body: bytes) -> str:
        """Write a small object, replacing any other.

        Atomic: a reader sees the old body or the new one, never a mix, and a crash leaves one of the two.

        Returns:
            The new version's etag.
        """
        ...

    def create(self, key: str, body: bytes) -> str:
        """Write a small object only where none exists.

        Of any number of simultaneous calls one wins. The bodies of contenders must differ (add a nonce): a lost
        response is detected by reading back and comparing.

        Returns:
            The new object's etag.

        Raises:
            AlreadyExistsError: An object with another body exists.
        """
        ...

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the version of a small object that `etag` names.

        Atomic, and one writer wins, as with `create`; the bodies must differ here too.

        Returns:
            The new version's etag.

        Raises:
            ChangedError: Another version exists, or none.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Return an object's metadata.

        Raises:
            NotFoundError: It does not exist.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix, at any depth, sorted by key.

        Memory: one `ObjectInfo` per object. Unfinished writes are never listed.

        Args:
            prefix: The beginning of keys; ends with a `/`.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are ignored.

        Not atomic as a whole: a crash leaves some of them deleted. Delete a manifest before the objects that it names.
        """
        ...

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream, replacing any other.

        Atomic: nothing is visible before the last byte has arrived, and an error in `chunks` or a crash leaves the old
        object. A crash may leave an unfinished upload, which no method lists.
        Memory: concurrency x chunk (`limits`), whatever the object's size.
        """
        ...

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream, starting at byte `offset`.

        Memory: a few chunks, whatever the object's size. All chunks come from one version of the object; where that is
        overwritten meanwhile and no longer available, `UnavailableError` ends the stream.

        Raises:
            NotFoundError: It does not exist; raised at the first chunk.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """Return the path of the object's file; None where the store is not a folder.

        For reading only; the file need not exist.
        """
        ...


def sorted_by_key(infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Sort objects by the bytes of their keys, as S3 does."""
    return sorted(infos, key=lambda info: info.key.encode())
