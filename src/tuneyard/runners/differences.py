"""Which keys two resolved values differ in. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ABSENT = object()


def differing_keys(one: Any, other: Any) -> list[str]:
    """List the dotted paths at which two JSON trees differ, sorted; lists count as one value.

    Args:
        one: A tree of objects, lists and scalars.
        other: Another.
    """
    return sorted(_walk(one, other, ""))


def differing_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """List the keys at which the values of two launches differ.

    The texts of environment variables are not compared: they are not known for every run, and don't make another run.

    Args:
        one: Resolved values, as plain JSON.
        other: Others.
    """
    from tuneyard.values import NOT_SHOWN, with_env

    def name_alone(_name: str, value: Any) -> Any:
        return NOT_SHOWN if isinstance(value, str) else value

    return differing_keys(with_env(one, name_alone), with_env(other, name_alone))


def _walk(one: Any, other: Any, path: str) -> list[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [path]
    keys: set[str] = {*one, *other}
    return [
        found
        for key in keys
        for found in _walk(one.get(key, _ABSENT), other.get(key, _ABSENT), f"{path}.{key}" if path else key)
    ]
