"""What every object store promises: the `Store` protocol and the small values its verbs give back.

This is the contract alone. `folder` and `s3` keep it, `tests/contract` proves it for both; nothing else may be assumed
of a store. A key is always `bucket/path/in/bucket` (`keys` says which keys are allowed).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

    Attributes:
        key: The object's whole key, bucket first.
        size: Its size in bytes.
        etag: Names this version of the object; two different bodies never share one.
        modified: When it was last written, with a time zone.
    """

    key: str
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole small object: its bytes, and the version that `Store.replace` may name."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The size in bytes and the SHA-256 (64 hex digits) of bytes that went by."""

    size: int
    sha256: str


class Store(Protocol):
    """A server of objects: bytes under keys, and nothing more.

    Every verb raises `UnavailableError` where the store can't be reached, `DeniedError` where it refuses the
    credentials, and `NotFoundError` where the object or its bucket is not there: three different things. A store may
    be used from several threads at once.
    """

    @property
    def url(self) -> str:
        """Where this store is, without credentials; `open_store` takes it back."""
        ...

    def get(self, key: str) -> Stored:
        """Read a whole small object.

        Memory: the object's size. Use `read` for anything large.

        Raises:
            NotFoundError: It is not there.
        """
        ...

    def put(self, key: str, body: bytes) -> str:
        """Write a small object over whatever is there.

        Atomic: a reader sees the old body or the new one, never a mix, and a crash leaves one of the two.

        Returns:
            The new version's etag.
        """
        ...

    def create(self, key: str, body: bytes) -> str:
        """Write a small object only where nothing is.

        Of any number of simultaneous calls one wins, so the bodies that contenders write must differ (put a nonce into
        them): an answer that was lost on the way is recognised by reading back and comparing.

        Returns:
            The new object's etag.

        Raises:
            AlreadyExistsError: An object with another body is there.
        """
        ...

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write a small object only over the version that `etag` names.

        Atomic, and one winner, as with `create`; here too the bodies must differ.

        Returns:
            The new version's etag.

        Raises:
            ChangedError: Another version is there, or none.
        """
        ...

    def head(self, key: str) -> ObjectInfo:
        """Ask what is known of an object.

        Raises:
            NotFoundError: It is not there.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix, however deep, sorted by key.

        Memory: one `ObjectInfo` per object. Unfinished writes are never listed.

        Args:
            prefix: A key's beginning; it ends at a `/`.
        """
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are passed over.

        Not atomic as a whole: a crash leaves some of them deleted. Delete first what names the others (a manifest).
        """
        ...

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream, over whatever is there.

        Atomic: nothing is visible before the last byte has arrived, and an error in `chunks` or a crash leaves what was
        there before. A crash may leave an unfinished upload, which no verb shows.
        Memory: concurrency x chunk (`limits`), whatever the object's size.

        Returns:
            Size and SHA-256 of what was written.
        """
        ...

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream, from `offset` bytes on.

        Memory: a few chunks, whatever the object's size. All chunks come from one version of the object;
        where that is overwritten on the way and can't be had any more, `UnavailableError` ends the stream.

        Raises:
            NotFoundError: It is not there; raised at the first chunk.
        """
        ...

    def local_path(self, key: str) -> Path | None:
        """Tell where this object lies as a file, or None where the store is no folder.

        For reading alone; the file need not be there.
        """
        ...


def sorted_by_key(infos: Sequence[ObjectInfo]) -> list[ObjectInfo]:
    """Sort objects by the bytes of their keys, as S3 does."""
    return sorted(infos, key=lambda info: info.key.encode())
