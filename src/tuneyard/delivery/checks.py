"""Checks that bytes are what their source declares: as they are streamed, and against what a store already holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tuneyard.delivery.sources import Source, SourceFile
from tuneyard.errors import IntegrityError
from tuneyard.progress import Advance


def checked(source: Source, file: SourceFile, *, advance: Advance) -> Iterator[bytes]:
    """Stream a file of a source, and raise at its end if it differs from what the source declares.

    A store makes an object visible only after the whole stream, so a wrong one never becomes visible.

    Args:
        source: The source.
        file: The file.
        advance: Called with the bytes of each chunk; what it raises ends the stream.

    Yields:
        The file's bytes.

    Raises:
        IntegrityError: Its size, SHA-256 or git blob id differs from what the source declares.
    """
    sha256, blob, size = hashlib.sha256(), _git_blob(file.size), 0
    for chunk in source.read(file):
        size += len(chunk)
        if file.sha256:
            sha256.update(chunk)
        elif file.git_blob:
            blob.update(chunk)
        yield chunk
        advance(len(chunk))
    if size != file.size:
        raise _differs(source, file, "size", str(file.size), str(size))
    if file.sha256 and sha256.hexdigest() != file.sha256:
        raise _differs(source, file, "SHA-256", file.sha256, sha256.hexdigest())
    if file.git_blob and not file.sha256 and blob.hexdigest() != file.git_blob:
        raise _differs(source, file, "git blob id", file.git_blob, blob.hexdigest())


@dataclass(frozen=True, slots=True)
class Held:
    """A file that a store holds.

    Attributes:
        size: Its size in bytes.
        sha256: Its SHA-256.
        version: The `SourceFile.version` that it was delivered from; empty where unknown.
    """

    size: int
    sha256: str
    version: str = ""


def same_content(source: Source, file: SourceFile, held: Held) -> bool:
    """Return whether a file of a source has the bytes that a store holds, reading the source only where necessary.

    Args:
        source: The source.
        file: The file.
        held: What the store holds under its path.
    """
    if file.size != held.size:
        return False
    if file.sha256:
        return file.sha256 == held.sha256
    if file.version and file.version == held.version:
        return True
    if file.git_blob and held.version.startswith("git:"):
        return False
    digest = hashlib.sha256()
    for chunk in source.read(file):
        digest.update(chunk)
    return digest.hexdigest() == held.sha256


def _git_blob(size: int) -> hashlib._Hash:  # pyright: ignore[reportPrivateUsage]  (typeshed's name for it)
    return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)


def _differs(source: Source, file: SourceFile, what: str, declared: str, found: str) -> IntegrityError:
    return IntegrityError(
        f"The {what} of '{file.path}' from '{source.name}' is '{found}', but the source declares '{declared}'; "
        "it was not delivered.",
        hint="Deliver again. If the error persists, the file is damaged at its source or by a proxy.",
        path=file.path,
        expected=declared,
        found=found,
    )
