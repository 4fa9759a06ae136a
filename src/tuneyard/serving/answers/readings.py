"""Small readings of a text that was rendered or generated: JSON in it, and patterns made from pieces of it.

Knows nothing of templates or answers; `toolcalls` is made of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, cast

Path = tuple[str, ...]
"""The keys that lead to a value inside JSON."""

_NAME = r"[\w./-]+"
_BRACKET = re.compile(r"[\[{]")


def json_at(text: str, at: int) -> tuple[object, int]:
    """Read the JSON value at a place; where there is none, None and the same place."""
    try:
        value, end = _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
    return value, end


def fits_json(arguments: object) -> bool:
    """Whether JSON can hold it."""
    try:
        json.dumps(arguments, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def json_values(text: str, at: int, *, holds: str) -> Iterator[tuple[object, int, int]]:
    """Find the outermost JSON values from a place on that hold a text, each with its start and end."""
    while found := _BRACKET.search(text, at):
        value, end = json_at(text, found.start())
        if holds in text[found.start() : end]:
            yield value, found.start(), end
            at = end
        else:
            at = found.start() + 1


def path_to(value: object, wanted: object) -> Path | None:
    """Find the keys that lead to a value."""
    if value == wanted:
        return ()
    if not isinstance(value, dict):
        return None
    for key, inner in cast("dict[str, Any]", value).items():
        rest = path_to(inner, wanted)
        if rest is not None:
            return (key, *rest)
    return None


def inside(value: object, path: Path) -> object:
    """Follow a path; None where it leads nowhere."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(key)
    return value


def pattern(text: str, name: str = "") -> str:
    """Write a text as a pattern: any space where it has some, and a function's name where it has that name."""
    pieces = [re.sub(r"(?:\\?\s)+", r"\\s*", re.escape(piece)) for piece in (text.split(name) if name else [text])]
    first, *others = pieces
    return first + (f"(?P<name>{_NAME}){'(?P=name)'.join(others)}" if others else "")


def loose_start(text: str) -> str:
    """Write a text as a pattern of which the first spaces may be missing, and nothing more may be taken."""
    core = text.lstrip()
    return "".join(f"{re.escape(space)}?" for space in text[: len(text) - len(core)]) + pattern(core)


def loose_end(text: str) -> str:
    """Write a text as a pattern of which the last spaces may be missing, and nothing more may be taken."""
    core = text.rstrip()
    return pattern(core) + "".join(f"{re.escape(space)}?" for space in text[len(core) :])


def gap(text: str, left: str, right: str) -> str | None:
    """Return what stands between two texts; None where one of them is missing."""
    start = text.find(left) + len(left)
    end = text.find(right, start)
    return text[start:end] if left in text and end >= 0 else None


def shared(one: str, other: str) -> str:
    """Return what two texts begin with alike."""
    return "".join(left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
