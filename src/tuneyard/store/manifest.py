"""Manifests: the list of files, sizes and SHA-256 hashes that makes a tree of objects complete.

A manifest is written last, by a conditional create, and readers trust only the files that it names. Its paths are
relative to a prefix that the caller holds (`places`). `transfer` copies and verifies the files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from tuneyard.errors import AlreadyExistsError, IntegrityError, InvalidValuesError
from tuneyard.store.keys import check_relative
from tuneyard.store.objects import Store
from tuneyard.whereabouts import installation

FORMAT = 1
"""The version of the JSON form; incremented when older readers would misread a newer manifest."""

Kind = Literal["model", "dataset", "checkpoint", "final"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, order=True)
class FileEntry:
    """One file of a manifest.

    Attributes:
        path: Its path, relative to the manifest's prefix.
        size: Its size in bytes.
        sha256: Its SHA-256, 64 hex digits.

    Raises:
        InvalidValuesError: The path leaves its prefix, or size or hash is impossible.
    """

    path: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_relative(self.path)
        if self.size < 0:
            raise InvalidValuesError(f"The file '{self.path}' can't have a size of {self.size} bytes.")
        if not _SHA256.fullmatch(self.sha256):
            raise InvalidValuesError(f"The file '{self.path}' can't have the SHA-256 {self.sha256!r}.")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A complete tree of files.

    Attributes:
        kind: What the files are.
        files: The files, sorted by path.
        about: Facts for people and for later steps (its source, its training step); plain JSON values.

    Raises:
        InvalidValuesError: A path is named twice, or one file lies under another.
    """

    kind: Kind
    files: tuple[FileEntry, ...]
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        files = tuple(sorted(self.files))
        paths = {entry.path for entry in files}
        if len(paths) != len(files):
            raise InvalidValuesError("A manifest can't name the same path twice.")
        for path in paths:
            parent = path.rpartition("/")[0]
            while parent:
                if parent in paths:
                    raise InvalidValuesError(f"A manifest can't name '{parent}' and, below it, '{path}'.")
                parent = parent.rpartition("/")[0]
        object.__setattr__(self, "files", files)

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(entry.size for entry in self.files)

    @property
    def content_sha256(self) -> str:
        """A SHA-256 over the files' paths, sizes and hashes: equal if and only if the content is equal."""
        rows = [[entry.path, entry.size, entry.sha256] for entry in self.files]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def check_only(self, path: str, *, where: str) -> None:
        """Check that the manifest names one file alone, as that of a dataset does.

        Args:
            path: The file's path.
            where: The manifest's key, for messages.

        Raises:
            IntegrityError: It names another file, or more than one.
        """
        if [entry.path for entry in self.files] != [path]:
            raise _damaged(where, f"does not name '{path}' alone")

    def to_json(self) -> bytes:
        """Return the manifest as JSON: always the same bytes for the same manifest."""
        document = {
            "format": FORMAT,
            "kind": self.kind,
            "content_sha256": self.content_sha256,
            "files": [{"path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in self.files],
            "about": dict(self.about),
        }
        return (json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, body: bytes, *, where: str = "manifest") -> Manifest:
        """Read a manifest from its JSON.

        Args:
            body: What `to_json` returned.
            where: The manifest's key, for messages.

        Raises:
            IntegrityError: It is damaged, or of an unknown format.
        """
        try:
            document: Any = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise _damaged(where, "is not JSON") from error
        if not isinstance(document, dict) or "format" not in document:
            raise _damaged(where, "has no format number")
        fields = cast("dict[str, Any]", document)
        if fields["format"] != FORMAT:
            raise IntegrityError(
                f"The manifest '{where}' has the format {fields['format']!r}; this version of Tuneyard reads {FORMAT}.",
                hint=f"Update Tuneyard: {installation('')}",
                key=where,
                format=fields["format"],
            )
        return _manifest(fields, where)


def write_manifest(store: Store, key: str, manifest: Manifest, *, replace: bool = False) -> str:
    """Write a manifest, which makes its files visible: the last step of every delivery and publication.

    Args:
        store: The store that already holds its files.
        key: The manifest's key.
        manifest: The manifest.
        replace: Replace a manifest that is there, instead of raising.

    Returns:
        The manifest's etag.

    Raises:
        AlreadyExistsError: Another manifest is there, and `replace` is false.
    """
    body = manifest.to_json()
    if replace:
        return store.put(key, body)
    try:
        return store.create(key, body)
    except AlreadyExistsError as error:
        raise AlreadyExistsError(
            f"There is already a manifest at '{key}' in '{store.url}'.",
            hint="Choose another key, or set allowOverwrite=true for a delivery.",
            key=key,
        ) from error


def read_manifest(store: Store, key: str) -> Manifest:
    """Read a manifest.

    Raises:
        NotFoundError: There is none: whatever lies beside its key is incomplete.
        IntegrityError: It is damaged, or of an unknown format.
    """
    return Manifest.from_json(store.get(key).body, where=key)


def _manifest(fields: dict[str, Any], where: str) -> Manifest:
    try:
        kind, rows, about = fields["kind"], fields["files"], fields["about"]
        if kind not in get_args(Kind) or not isinstance(about, dict):
            raise _damaged(where, f"is of the unknown kind {kind!r}" if isinstance(about, dict) else "has no facts")
        files = tuple(FileEntry(path=row["path"], size=row["size"], sha256=row["sha256"]) for row in rows)
        manifest = Manifest(kind=kind, files=files, about=cast("dict[str, Any]", about))
    except (KeyError, TypeError, AttributeError, InvalidValuesError) as error:
        raise _damaged(where, f"can't be read ({error!r})") from error
    if fields.get("content_sha256") != manifest.content_sha256:
        raise _damaged(where, "has a content hash that does not match its files")
    return manifest


def _damaged(where: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"The manifest '{where}' {what}.",
        hint="Deliver or publish it again: the files beside it can't be trusted.",
        key=where,
    )
