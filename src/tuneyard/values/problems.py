"""From pydantic's errors to sentences: where, what, the value, what is allowed, and what was probably meant.

pydantic stops checking a map's rules when one of its fields is wrong. `every_problem` therefore takes what is wrong out
and looks again, so that a user sees everything at once. Not the errors' classes (`tuneyard.errors`).
"""

from __future__ import annotations

import copy
import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Union, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tuneyard.errors import Problem
from tuneyard.values.base import BROKEN, Broken
from tuneyard.values.legacy import old_spellings
from tuneyard.values.public import ENV_KEYS, is_secret_name

Path = tuple[str | int, ...]

LONGEST_VALUE = 80
_FEW = 16
_LOOKS = 8

_WORDS: dict[str, tuple[str, str]] = {
    "missing": ("is missing", ""),
    "extra_forbidden": ("is not a key that is known here", ""),
    "literal_error": ("is not one of the words it can be", ""),
    "bool_parsing": ("is neither true nor false", "true or false"),
    "bool_type": ("is neither true nor false", "true or false"),
    "int_parsing": ("is not a whole number", ""),
    "int_type": ("is not a whole number", ""),
    "int_from_float": ("is not a whole number", ""),
    "int_parsing_size": ("is not a whole number of a size that is possible", ""),
    "float_parsing": ("is not a number", ""),
    "float_type": ("is not a number", ""),
    "finite_number": ("is not a finite number", ""),
    "string_type": ("is not text", ""),
    "dict_type": ("is not a map", "keys and values"),
    "model_type": ("is not a map", "keys and values"),
    "model_attributes_type": ("is not a map", "keys and values"),
    "list_type": ("is not a list", "a list of items"),
    "too_short": ("has too few items", ""),
}
_RANGES = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "{} or less"),
    "less_than": ("lt", "less than {}"),
}


@dataclass(frozen=True, slots=True)
class _Finding:
    path: Path
    what: str
    value: str = ""
    allowed: str = ""
    suggestion: str = ""
    about: tuple[Path, ...] = ()
    missing: bool = False


def every_problem(model: type[BaseModel], raw: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """List everything that is wrong with values.

    Args:
        model: What they should be.
        raw: The values as given.
        error: What pydantic found at its first look.

    Returns:
        The problems, each once, in the order of the first look and then of the later ones.
    """
    rest = copy.deepcopy(dict(raw))
    found: dict[tuple[Path, str], _Finding] = {}
    repaired: set[Path] = set()
    current: ValidationError = error
    for _ in range(_LOOKS):
        findings = [_as_spelt(rest, finding) for finding in _findings(current, model)]
        for finding in findings:
            if not _touches(finding, repaired):
                found.setdefault((finding.path, finding.what), finding)
        fixed = {finding.path for finding in findings if _repair(rest, finding)}
        repaired |= fixed
        again = _look(model, rest) if fixed else None
        if again is None:
            break
        current = again
    return [_problem(finding) for finding in found.values()]


def broken_of(error: ValidationError, model: type[BaseModel], under: str) -> list[Broken]:
    """Carry the findings of a model that was checked by hand into the model around it.

    Args:
        error: What pydantic found.
        model: What was checked.
        under: The key that it stands under.

    Returns:
        The findings, to raise with `broken_error`.
    """
    return [
        Broken(dotted((under, *found.path)), found.what, found.value, found.allowed, found.suggestion)
        for found in _findings(error, model)
    ]


def dotted(path: Iterable[str | int]) -> str:
    """Write a path the way `--set` takes it: `a.b[0].c`, with a backslash before a dot inside a key."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            escaped = step.replace(".", "\\.").replace("[", "\\[")
            text += f".{escaped}" if text else escaped
    return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return which of some known words was probably meant, or an empty string."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else ""


def _look(model: type[BaseModel], raw: Mapping[str, Any]) -> ValidationError | None:
    try:
        model.model_validate(raw)
    except ValidationError as error:
        return error
    return None


def _problem(found: _Finding) -> Problem:
    return Problem(dotted(found.path) or "values", found.what, found.value, found.allowed, found.suggestion)


# findings ------------------------------------------------------------------------------------------------------------


def _findings(error: ValidationError, model: type[BaseModel]) -> Iterator[_Finding]:
    for details in error.errors(include_url=False):
        path, kinds, parents = _walk(model, details)
        if details["type"] == BROKEN:
            broken: tuple[Broken, ...] = details.get("ctx", {})["broken"]
            yield from (_rule_finding(path, rule) for rule in broken)
        else:
            yield _field_finding(model, path, kinds, parents, details)


def _rule_finding(at: Path, rule: Broken) -> _Finding:
    path = at + _steps(rule.where)
    about = tuple(at + _steps(where) for where in rule.about)
    value = "" if _is_secret(path) else _short(rule.value)
    return _Finding(path, rule.what, value, rule.allowed, rule.suggestion, about)


def _field_finding(
    model: type[BaseModel], path: Path, kinds: list[Any], parents: list[type[BaseModel]], details: ErrorDetails
) -> _Finding:
    kind, given = details["type"], details.get("input")
    what, allowed = _WORDS.get(kind, (details["msg"], ""))
    value, suggestion = "" if kind == "missing" or _is_secret(path) else _short(given), ""
    if kind in _RANGES:
        name, words = _RANGES[kind]
        what, allowed = "is out of range", words.format(f"{details.get('ctx', {})[name]:g}")
    elif kind == "literal_error":
        words = [_short(word) for one in kinds if typing.get_origin(one) is Literal for word in typing.get_args(one)]
        suggestion = nearest(str(given), words)
        allowed = ", ".join(words) if len(words) <= _FEW or not suggestion else ""
    elif kind == "extra_forbidden":
        value = ""
        known = [name for parent in parents for name in parent.model_fields]
        suggestion = _where_it_belongs(model, path, known)
        allowed = ", ".join(known) if len(known) <= _FEW and not suggestion else ""
    return _Finding(path, what, value, allowed, suggestion, missing=kind == "missing")


def _where_it_belongs(model: type[BaseModel], path: Path, known: list[str]) -> str:
    """A key that is known elsewhere was put in the wrong place; otherwise it is misspelt."""
    key = str(path[-1])
    if near := nearest(key, known):
        return near
    places = [place for place in _places(model) if place[-1] == key]
    return dotted(places[0]) if places else ""


def _places(model: type[BaseModel]) -> Iterator[Path]:
    for name, field in model.model_fields.items():
        yield (name,)
        for kind in _members(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from ((name, *place) for place in _places(kind))


def _walk(model: type[BaseModel], details: ErrorDetails) -> tuple[Path, list[Any], list[type[BaseModel]]]:
    """Follow an error's location through the models, leaving out the tags of unions, which are no keys.

    Returns:
        The path of keys, the types possible at its end, and the models possible one step before.
    """
    path: Path = ()
    kinds: list[Any] = [model]
    parents: list[type[BaseModel]] = []
    location = details["loc"]
    for position, step in enumerate(location):
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        inside = [field.annotation for kind in models if (field := kind.model_fields.get(str(step)))]
        holders = dict if isinstance(step, str) else list
        items = [typing.get_args(kind)[-1] for kind in kinds if typing.get_origin(kind) is holders]
        unknown = details["type"] == "extra_forbidden" and position == len(location) - 1
        if step == "[key]" or not (inside or items or unknown):
            continue
        path, parents = (*path, step), models
        kinds = [member for kind in (*inside, *items) for member in _members(kind)]
    return path, kinds, parents


def _members(kind: Any) -> list[Any]:
    """Take a type apart to the members of its union, without annotations."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return _members(typing.get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [member for one in typing.get_args(kind) for member in _members(one)]
    return [kind]


def _steps(where: str) -> Path:
    steps = re.findall(r"\[(\d+)\]|((?:\\.|[^.\[])+)", where)
    return tuple(int(number) if number else re.sub(r"\\(.)", r"\1", name) for number, name in steps)


def _is_secret(path: Path) -> bool:
    """Whether a value may be a secret: what the environment holds, and what its key calls one."""
    names = [step for step in path if isinstance(step, str)]
    return any(name in ENV_KEYS for name in names) or bool(names and is_secret_name(names[-1]))


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


# looking again -------------------------------------------------------------------------------------------------------


def _touches(finding: _Finding, repaired: set[Path]) -> bool:
    """Whether a finding may be a consequence of what was taken out: it isn't the user's then."""
    paths = (finding.path, *finding.about)
    return any(path[: len(done)] == done or done[: len(path)] == path for path in paths for done in repaired if path)


def _as_spelt(raw: dict[str, Any], finding: _Finding) -> _Finding:
    """Name a key the way its user did, where that was an old spelling."""
    place: Any = raw
    for step in finding.path[:-1]:
        place = _inside(place, step)
    if not finding.path or not isinstance(place, dict) or finding.missing:
        return finding
    given, last = cast("dict[str, Any]", place), str(finding.path[-1])
    old = next((name for name in old_spellings(last) if name in given), None) if last not in given else None
    return replace(finding, path=(*finding.path[:-1], old)) if old else finding


def _repair(raw: dict[str, Any], finding: _Finding) -> bool:
    """Take out what is wrong, or put something in where it is missing, so that the rest can be looked at."""
    place: Any = raw
    for step in finding.path[:-1]:
        if finding.missing and isinstance(place, dict) and isinstance(step, str):
            place = cast("dict[str, Any]", place).setdefault(step, {})
        else:
            place = _inside(place, step)
    if not finding.path or not isinstance(place, dict | list):
        return False
    last = finding.path[-1]
    if finding.missing:
        cast("dict[Any, Any]", place)[last] = "bucket/placeholder"
        return True
    if isinstance(place, dict) and last in place:
        del cast("dict[Any, Any]", place)[last]
        return True
    if isinstance(place, list) and isinstance(last, int) and last < len(cast("list[Any]", place)):
        del cast("list[Any]", place)[last]
        return True
    return False


def _inside(place: Any, step: str | int) -> Any:
    if isinstance(place, dict):
        return cast("dict[Any, Any]", place).get(step)
    if isinstance(place, list) and isinstance(step, int) and step < len(cast("list[Any]", place)):
        return cast("list[Any]", place)[step]
    return None
