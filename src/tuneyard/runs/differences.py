"""Which keys two resolved values differ in. Pure."""

from __future__ import annotations

from typing import Any

_ABSENT = object()


def differing_keys(one: Any, other: Any) -> list[str]:
    """List the dotted paths at which two JSON trees differ, sorted; lists count as one value.

    Args:
        one: A tree of objects, lists and scalars.
        other: Another.
    """
    return sorted(_walk(one, other, ""))


def _walk(one: Any, other: Any, path: str) -> list[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [path]
    keys: set[str] = {*one, *other}
    return [
        found
        for key in keys
        for found in _walk(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{path}.{key}" if path else key)
    ]
