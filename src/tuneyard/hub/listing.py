"""The API's responses about a model, parsed strictly: a commit, and files with a size and a hash each.

They are untrusted input. What is not exactly of the documented form raises, and never becomes a file without a hash to
verify its bytes with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, cast

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 5 * 1024**4  # bytes: S3's largest object
_KINDS = frozenset({"file", "directory", "submodule", "symlink"})


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at a commit, as the Hub declares it.

    Attributes:
        path: Its path in the model's repository.
        size: Its size in bytes.
        sha256: Its SHA-256 if it is stored in LFS; None for a plain git file.
        git_blob: Its git blob id if it is a plain git file; None in LFS (the blob is then only a pointer).
    """

    path: str
    size: int
    sha256: str | None
    git_blob: str | None


def is_commit(text: object) -> bool:
    """Whether a value is a whole commit id: 40 hex digits."""
    return isinstance(text, str) and _COMMIT.fullmatch(text) is not None


def read_commit(facts: Any) -> str:
    """Read the commit from the API's answer about a revision.

    Raises:
        ValueError, LookupError, TypeError: It is not of the documented form.
    """
    commit = facts["sha"]
    if not is_commit(commit):
        raise ValueError("has no commit")
    return cast("str", commit)


def read_row(row: Any) -> HubFile | None:
    """Read a file from a row of a tree.

    Returns:
        The file; None if the row is not a file.

    Raises:
        ValueError, LookupError, TypeError: It is not of the documented form.
    """
    path, kind = row["path"], row["type"]
    if not isinstance(path, str) or kind not in _KINDS:
        raise TypeError("is not a row of a tree")
    if kind != "file":
        return None
    lfs = row.get("lfs")
    if lfs is not None:
        return HubFile(path, _size(lfs["size"]), _hash(lfs["oid"].removeprefix("sha256:"), _SHA256), None)
    return HubFile(path, _size(row["size"]), None, _hash(row["oid"], _COMMIT))


def _size(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError("has no valid size")
    return value


def _hash(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError("has no valid hash")
    return value
