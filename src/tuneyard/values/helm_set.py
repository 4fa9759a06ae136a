"""`--set` with Helm's syntax: `a.b[0].c=v,d={x,y}`, with a backslash before what is meant literally.

`true`, `false` and `null` in any case and whole numbers without leading zeros are typed; all else is text, decimals
too, as with Helm. The models make numbers of them. Two things differ, since nobody means what Helm makes of them: an
assignment without a key is an error here and ignored by Helm, and `{}` is an empty list here and a list of one empty
string in Helm.
"""

from __future__ import annotations

import re
from typing import Any, cast

LARGEST_INDEX = 65536
_WHOLE = re.compile(r"[+-]?[0-9]+")
_INT64 = 2**63

Path = list[str | int]


class SetSyntaxError(ValueError):
    """Raised if the text of a `--set` can't be parsed; the message has the reason."""


def apply_set(values: dict[str, Any], text: str) -> dict[str, Any]:
    """Make the assignments of one `--set`.

    Args:
        values: What to change; it is left as it is.
        text: One or several assignments, separated by commas.

    Returns:
        The changed values.

    Raises:
        SetSyntaxError: Where the text isn't Helm's syntax, or reaches into something that isn't a map or list.
    """
    changed: Any = values
    for path, value in parse_set(text):
        changed = _assigned(changed, path, value)
    return cast("dict[str, Any]", changed)


def parse_set(text: str) -> list[tuple[Path, Any]]:
    """Read the assignments of one `--set`.

    Args:
        text: As on the command line.

    Returns:
        A path of keys and indices, and the value, for each assignment.

    Raises:
        SetSyntaxError: Where the text isn't Helm's syntax.
    """
    reader = _Reader(text)
    assignments: list[tuple[Path, Any]] = []
    while not reader.done:
        assignments.append((reader.path(), reader.value()))
    return assignments


def typed(text: str) -> Any:
    """Convert a word of `--set` to its type, as Helm does."""
    lower = text.lower()
    if lower in {"true", "false"}:
        return lower == "true"
    if lower == "null":
        return None
    if text == "0" or (_WHOLE.fullmatch(text) and not text.startswith("0")):
        number = int(text)
        return number if -_INT64 <= number < _INT64 else text
    return text


class _Reader:
    """Reads the text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at >= len(self._text)

    def _until(self, stops: str) -> tuple[str, str]:
        """Read up to one of some characters; a backslash takes the next one literally.

        Returns:
            What was read, and the character it ended at (an empty string at the end).
        """
        read: list[str] = []
        while not self.done:
            character = self._text[self._at]
            self._at += 1
            if character == "\\" and not self.done:
                read.append(self._text[self._at])
                self._at += 1
            elif character in stops:
                return "".join(read), character
            else:
                read.append(character)
        return "".join(read), ""

    def path(self) -> Path:
        path: Path = []
        while True:
            key, stop = self._until(".[=,")
            if not key:
                raise SetSyntaxError("a key is empty")
            path.append(key)
            while stop == "[":
                path.append(self._index())
                after, stop = self._until(".[=,")
                if after:
                    raise SetSyntaxError(f"after an index comes '.', '[' or '=', not '{after}'")
            if stop == "=":
                return path
            if stop != ".":
                raise SetSyntaxError(f"the key {key} has no value")

    def _index(self) -> int:
        number, stop = self._until("]")
        if stop != "]" or not number.isdecimal() or int(number) > LARGEST_INDEX:
            raise SetSyntaxError(f"'{number}' is not an index between 0 and {LARGEST_INDEX}")
        return int(number)

    def value(self) -> Any:
        if self._text[self._at : self._at + 1] != "{":
            word, _ = self._until(",")
            return typed(word)
        self._at += 1
        items: list[Any] = []
        while True:
            word, stop = self._until(",}")
            if not stop:
                raise SetSyntaxError("a list lacks its closing '}'")
            if word or stop == "," or items:
                items.append(typed(word))
            if stop == "}":
                break
        if not self.done and self._text[self._at] == ",":
            self._at += 1
        return items


def _assigned(place: Any, path: Path, value: Any) -> Any:
    """Return a copy of a tree with one value in it changed."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        if place is not None and not isinstance(place, list):
            raise SetSyntaxError(f"the index [{step}] is applied to a value that is not a list")
        items = list(cast("list[Any]", place or []))
        items += [None] * (step + 1 - len(items))
        items[step] = _assigned(items[step], rest, value)
        return items
    if place is not None and not isinstance(place, dict):
        raise SetSyntaxError(f"the key {step} is set in a value that is not a map")
    keys = dict(cast("dict[str, Any]", place or {}))
    keys[step] = _assigned(keys.get(step), rest, value)
    return keys
