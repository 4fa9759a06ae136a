"""Whether bytes are what was declared of them: while they stream by, and against what a store already holds."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass

from tuneyard.delivery.sources import Source, SourceFile
from tuneyard.errors import IntegrityError
from tuneyard.progress import Advance


def checked(source: Source, file: SourceFile, *, advance: Advance, stop: threading.Event) -> Iterator[bytes]:
    """Stream a file of a source, and raise before its last byte is accepted if it is not what was declared.

    A store makes an object visible only when the stream has ended well, so a wrong one never is.

    Args:
        source: Where it comes from.
        file: Which file.
        advance: Called with the bytes of each chunk.
        stop: Ends the stream early when set.

    Yields:
        The file's bytes.

    Raises:
        IntegrityError: Size, SHA-256 or git blob id is another than the source declares.
        CancelledError: `stop` was set.
    """
    sha256, blob, size = hashlib.sha256(), _git_blob(file.size), 0
    for chunk in source.read(file):
        if stop.is_set():
            raise CancelledError
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
        version: The `SourceFile.version` that it was delivered from; empty where that isn't known.
    """

    size: int
    sha256: str
    version: str = ""


def same_content(source: Source, file: SourceFile, held: Held) -> bool:
    """Tell whether a file of a source has the bytes that a store holds, reading the source only where it must.

    Args:
        source: Where the file comes from.
        file: Which file.
        held: What the store holds under its path.

    Returns:
        Whether the bytes are the same.
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
        f"The {what} of {file.path} from {source.name} is {found}, and {declared} was declared; it was not delivered.",
        hint="Run it again; if it stays so, the file at the source or a proxy in between is damaged.",
        path=file.path,
        expected=declared,
        found=found,
    )
