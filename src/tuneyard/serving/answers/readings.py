"""Reading of rendered and generated text: JSON values in it, and patterns made from pieces of it.

Knows nothing of templates or answers; `toolcalls` is built on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import takewhile
from typing import Any, cast

Path = tuple[str, ...]
"""The keys that lead to a value in JSON."""

_NAME = r"[\w./-]+"
_BRACKET = re.compile(r"[\[{]")


def json_at(text: str, at: int) -> tuple[object, int]:
    """Read the JSON value at a position; return None and the same position where there is none."""
    try:
        value, end = _JSON.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
    return value, end


def fits_json(arguments: object) -> bool:
    """Whether JSON can represent it."""
    try:
        json.dumps(arguments, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def json_values(text: str, at: int, *, holds: str) -> Iterator[tuple[object, int, int]]:
    """Yield the outermost JSON values from a position on that contain a text, each with its start and end."""
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
    """Return the value at a path; None where there is none."""
    for key in path:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, Any]", value).get(key)
    return value


def pattern(text: str, name: str = "") -> str:
    """Make a pattern of a text: any space where it has some, and a function's name where it has that name."""
    pieces = [re.sub(r"(?:\\?\s)+", r"\\s*", re.escape(piece)) for piece in (text.split(name) if name else [text])]
    first, *others = pieces
    return first + (f"(?P<name>{_NAME}){'(?P=name)'.join(others)}" if others else "")


def loose_start(text: str) -> str:
    """Make a pattern of a text whose leading spaces are optional, matching no others."""
    core = text.lstrip()
    return "".join(f"{re.escape(space)}?" for space in text[: len(text) - len(core)]) + pattern(core)


def loose_end(text: str) -> str:
    """Make a pattern of a text whose trailing spaces are optional, matching no others."""
    core = text.rstrip()
    return pattern(core) + "".join(f"{re.escape(space)}?" for space in text[len(core) :])


def gap(text: str, left: str, right: str) -> str | None:
    """Return the text between two others; None where one of them is missing."""
    start = text.find(left) + len(left)
    end = text.find(right, start)
    return text[start:end] if left in text and end >= 0 else None


def shared(one: str, other: str) -> str:
    """Return the common prefix of two texts."""
    return "".join(left for left, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
