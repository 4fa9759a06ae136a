"""The keys that are allowed: `bucket/path/in/bucket`, by the same rule for folders and S3.

What one store could not hold, or a folder would take for another place (`..`, an absolute path, a backslash), is
refused for all of them, so that values that are valid for one store are valid for every store.
"""

from __future__ import annotations

import re

from tuneyard.errors import InvalidValuesError

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3's own rule, for folders too
_PART_BYTES = 255
_KEY_BYTES = 1024
_ALLOWED = "bucket/path, parts joined by single slashes, without `.`, `..`, backslashes or control characters"


def split_key(key: str) -> tuple[str, str]:
    """Split a key into its bucket and the path in it.

    Args:
        key: `bucket/path/in/bucket`.

    Returns:
        The bucket, and the path without a leading `/`.

    Raises:
        InvalidValuesError: The key is not allowed.
    """
    bucket, _, path = key.partition("/")
    wrong = _wrong_bucket(bucket) or _wrong_path(path)
    if not wrong and len(path.encode()) > _KEY_BYTES:
        wrong = f"is longer than {_KEY_BYTES} bytes"
    if wrong:
        raise _invalid("key", key, wrong)
    return bucket, path


def split_prefix(prefix: str) -> tuple[str, str]:
    """Split a prefix into its bucket and the path in it, which is empty or ends with a `/`.

    Raises:
        InvalidValuesError: The prefix is not allowed.
    """
    bucket, slash, path = prefix.partition("/")
    wrong = _wrong_bucket(bucket)
    if not wrong and not prefix.endswith("/"):
        wrong = "does not end with `/`"
    if not wrong and path:
        wrong = _wrong_path(path[:-1])
    if wrong or not slash:
        raise _invalid("prefix", prefix, wrong)
    return bucket, path


def check_relative(path: str) -> str:
    """Return a path below a prefix after checking that it is a plain relative one.

    Raises:
        InvalidValuesError: The path is absolute, leaves its prefix, or could not be part of a key.
    """
    wrong = _wrong_path(path)
    if wrong:
        raise _invalid("path", path, wrong)
    return path


def _wrong_bucket(bucket: str) -> str:
    if not bucket:
        return "has no bucket before its first `/`"
    return "" if _BUCKET.fullmatch(bucket) else f"has the bucket {bucket!r} (allowed: 3 to 63 of a-z, 0-9, `.` and `-`)"


def _wrong_path(path: str) -> str:
    if not path:
        return "has no path"
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        return "has a control character"
    if "\\" in path:
        return "has a backslash"
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            return f"has the part {part!r}"
        if len(part.encode("utf-8", "surrogatepass")) > _PART_BYTES:
            return f"has a part of more than {_PART_BYTES} bytes"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in path):
        return "is not valid Unicode"
    return ""


def _invalid(what: str, value: str, wrong: str) -> InvalidValuesError:
    return InvalidValuesError(
        f"The object store's {what} {value!r} {wrong}.",
        hint=f"Allowed: {_ALLOWED}; for example default-bucket/models/tiny.",
        problems=[],
    )
