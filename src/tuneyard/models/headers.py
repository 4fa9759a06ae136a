"""The header of a safetensors file: the name, type and shape of each of its tensors, without reading a weight.

The format is eight bytes of length, that many bytes of JSON, then the data (huggingface.co/docs/safetensors). Pure: a
header comes from any stream, of a store, a hub or a file.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.errors import InvalidDataError, Problem

LENGTH_BYTES = 8
_LONGEST_BYTES = 100_000_000  # the bound of the safetensors library itself
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in a header.

    Attributes:
        dtype: The format's name of its type, such as `BF16`.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """A header.

    Attributes:
        raw: Its bytes at the beginning of the file, including the length.
        tensors: The tensors by name.
    """

    raw: bytes
    tensors: Mapping[str, Tensor]


def read_header(stream: Iterator[bytes], *, where: str, size: int) -> Header:
    """Read the header of a safetensors file, and no more of the stream.

    Args:
        stream: The file's bytes from its beginning; closed afterwards if it can be.
        where: The file, for messages.
        size: The file's size in bytes.

    Returns:
        The header.

    Raises:
        InvalidDataError: The file is not safetensors, or truncated.
    """
    try:
        read = _upto(stream, b"", LENGTH_BYTES)
        if len(read) < LENGTH_BYTES:
            raise _unreadable(where, "is too short to have a header")
        (length,) = struct.unpack("<Q", read[:LENGTH_BYTES])
        if length > min(_LONGEST_BYTES, size - LENGTH_BYTES):
            raise _unreadable(where, "declares a header that is too long", str(length))
        raw = _upto(stream, read, LENGTH_BYTES + length)[: LENGTH_BYTES + length]
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
    return Header(raw, _tensors(raw[LENGTH_BYTES:], where))


def _upto(stream: Iterator[bytes], read: bytes, size: int) -> bytes:
    parts, have = [read], len(read)
    while have < size:
        chunk = next(stream, None)
        if chunk is None:
            break
        parts.append(chunk)
        have += len(chunk)
    return b"".join(parts)


def _tensors(text: bytes, where: str) -> dict[str, Tensor]:
    try:
        document: Any = json.loads(text)
        entries = cast("dict[str, Any]", document).items()
        return {
            str(name): Tensor(str(facts["dtype"]), tuple(int(side) for side in facts["shape"]))
            for name, facts in entries
            if name != _METADATA
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(where, "does not have a safetensors header") from error


def _unreadable(where: str, what: str, value: str = "") -> InvalidDataError:
    return InvalidDataError(
        f"The file '{where}' {what}.",
        hint="Download the file again from its source, then deliver the model again.",
        problems=[Problem(where, what, value)],
    )
