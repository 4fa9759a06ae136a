"""Everything that is wrong with values, as problems: where, what, the value, what is allowed, and what was meant.

Found in two passes. The first has pydantic's own errors; pydantic skips the rules of a model with an invalid field. The
second therefore reads the values into a draft, which keeps invalid fields, and checks the rules of each of its models,
innermost first, with the defaults of those fields. What a rule finds about an invalid field is dropped, since it may be
a consequence. Not the errors' classes (`tuneyard.errors`).
"""

from __future__ import annotations

import contextlib
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
from tuneyard.values.base import BROKEN, DRAFT, REFUSED, Broken, Invalid, Refusals, Values
from tuneyard.values.legacy import old_spellings
from tuneyard.values.public import ENV_KEYS, is_secret_name

Path = tuple[str | int, ...]

LONGEST_VALUE = 80
_FEW = 16

_WORDS: dict[str, tuple[str, str]] = {
    "literal_error": ("is not an allowed value", ""),
    "bool_parsing": ("is not a boolean", "true or false"),
    "bool_type": ("is not a boolean", "true or false"),
    "int_parsing": ("is not an integer", ""),
    "int_type": ("is not an integer", ""),
    "int_from_float": ("is not an integer", ""),
    "int_parsing_size": ("is too large an integer", ""),
    "float_parsing": ("is not a number", ""),
    "float_type": ("is not a number", ""),
    "finite_number": ("is not a finite number", ""),
    "string_type": ("is not a string", ""),
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


def every_problem(model: type[Values], raw: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """List everything that is wrong with values.

    Args:
        model: What they should be.
        raw: The values as given.
        error: What pydantic found.

    Returns:
        The problems, each once: first those of pydantic, then those of fields and rules that it did not reach.
    """
    return [
        Problem(dotted(found.path) or "values", found.what, found.value, found.allowed, found.suggestion)
        for found in (_as_spelt(raw, finding) for finding in _findings(model, raw, error))
    ]


def broken_in(model: type[Values], raw: Mapping[str, Any], error: ValidationError, *, under: str) -> list[Broken]:
    """List everything that is wrong with values that a model around them validates by hand.

    Args:
        model: What they should be.
        raw: The values as given.
        error: What pydantic found.
        under: Their key in the model around them.

    Returns:
        The problems, to refuse.
    """
    return [
        Broken(dotted((under, *found.path)), found.what, found.value, found.allowed, found.suggestion)
        for found in _findings(model, raw, error)
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


# two passes ----------------------------------------------------------------------------------------------------------


def _findings(model: type[Values], raw: Mapping[str, Any], error: ValidationError) -> list[_Finding]:
    first = [found for details in error.errors(include_url=False) for found in _field_findings(model, details)]
    search = _Search(model)
    with contextlib.suppress(ValidationError):  # a key that is no text has no place in a draft
        search.visit(model.model_validate(raw, extra="allow", context={DRAFT: True}), ())
    found: dict[tuple[Path, str], _Finding] = {}
    for finding in (*first, *search.of_fields, *search.of_rules):
        found.setdefault((finding.path, finding.what), finding)
    return list(found.values())


class _Search:
    """Walks a draft and collects what is wrong with it.

    Attributes:
        of_fields: What pydantic found, unknown keys and refused ones included.
        of_rules: What the rules found.
    """

    def __init__(self, root: type[Values]) -> None:
        self._root = root
        self._invalid: set[Path] = set()
        self.of_fields: list[_Finding] = []
        self.of_rules: list[_Finding] = []

    def visit(self, draft: Any, at: Path) -> Any:
        """Collect from a part of a draft; return it with the defaults of invalid fields, or without such a field."""
        if isinstance(draft, list):
            return [self.visit(item, (*at, place)) for place, item in enumerate(cast("list[Any]", draft))]
        if isinstance(draft, dict):
            return {key: self.visit(item, (*at, key)) for key, item in cast("dict[Any, Any]", draft).items()}
        if not isinstance(draft, Values):
            return draft
        fields: dict[str, Any] = {}
        for name, value in draft.__dict__.items():
            if not isinstance(value, Invalid):
                fields[name] = self.visit(value, (*at, name))
                continue
            self._add_invalid(type(draft), name, value, at)
        self._add_extra(draft, at)
        broken = [_rule_finding(at, rule) for rule in _broken(_partial(type(draft), fields))]
        self.of_rules += [finding for finding in broken if not self._may_follow(finding)]
        for finding in broken:
            self._invalid.add(finding.path)
            fields.pop(str(finding.path[len(at)]) if len(finding.path) == len(at) + 1 else "", None)
        return _partial(type(draft), fields)

    def _add_invalid(self, model: type[Values], name: str, value: Invalid, at: Path) -> None:
        self._invalid.add((*at, name))
        if not value.errors:
            self.of_fields.append(_Finding((*at, name), "is missing", missing=True))
        for details in value.errors:
            inside: ErrorDetails = {**details, "loc": (name, *details["loc"])}
            for found in _field_findings(model, inside):
                self.of_fields.append(replace(found, path=at + found.path))

    def _add_extra(self, draft: Values, at: Path) -> None:
        for key, value in (draft.model_extra or {}).items():
            if key == REFUSED and isinstance(value, Refusals):
                found = [_rule_finding(at, broken) for broken in value]
            else:
                found = [_unknown_key(self._root, [type(draft)], (*at, key))]
            self.of_fields += found
            self._invalid |= {finding.path for finding in found}

    def _may_follow(self, finding: _Finding) -> bool:
        """Whether what a rule found may be a consequence of an invalid value."""
        paths = [path for path in (finding.path, *finding.about) if path]
        return any(path[: len(bad)] == bad or bad[: len(path)] == path for path in paths for bad in self._invalid)


def _partial(model: type[Values], fields: dict[str, Any]) -> Values:
    """Make a model of its valid fields and the defaults of others; one without a default stays absent."""
    return model.model_construct(**fields)


def _broken(values: Values) -> Iterator[Broken]:
    """Yield what the rules of a model find, each rule up to where it reads a required field that is absent."""
    for rule in values.checks:
        try:
            yield from rule(values)
        except AttributeError as error:
            if not (isinstance(error.obj, Values) and error.name in type(error.obj).model_fields):
                raise


# findings ------------------------------------------------------------------------------------------------------------


def _field_findings(model: type[BaseModel], details: ErrorDetails) -> list[_Finding]:
    path, kinds, parents = _walk(model, details)
    if details["type"] == BROKEN:
        return [_rule_finding(path, rule) for rule in cast("tuple[Broken, ...]", details.get("ctx", {})["broken"])]
    if details["type"] == "extra_forbidden":
        return [_unknown_key(model, parents, path)]
    if details["type"] == "missing":
        return [_Finding(path, "is missing", missing=True)]
    return [_field_finding(path, kinds, details)]


def _rule_finding(at: Path, rule: Broken) -> _Finding:
    path = at + _steps(rule.where)
    about = tuple(at + _steps(where) for where in rule.about)
    value = "" if _is_secret(path) else _short(rule.value)
    return _Finding(path, rule.what, value, rule.allowed, rule.suggestion, about)


def _field_finding(path: Path, kinds: list[Any], details: ErrorDetails) -> _Finding:
    kind, given = details["type"], details.get("input")
    what, allowed = _WORDS.get(kind, (details["msg"], ""))
    value, suggestion = "" if _is_secret(path) else _short(given), ""
    if kind in _RANGES:
        name, words = _RANGES[kind]
        what, allowed = "is out of range", words.format(f"{details.get('ctx', {})[name]:g}")
    elif kind == "literal_error":
        words = [_short(word) for one in kinds if typing.get_origin(one) is Literal for word in typing.get_args(one)]
        suggestion = nearest(str(given), words)
        allowed = ", ".join(words) if len(words) <= _FEW or not suggestion else ""
    return _Finding(path, what, value, allowed, suggestion)


def _unknown_key(root: type[BaseModel], parents: list[type[BaseModel]], path: Path) -> _Finding:
    known = [name for parent in parents for name in parent.model_fields]
    suggestion = _where_it_belongs(root, path, known)
    allowed = ", ".join(known) if len(known) <= _FEW and not suggestion else ""
    return _Finding(path, "is not a known key", allowed=allowed, suggestion=suggestion)


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


def _as_spelt(raw: Mapping[str, Any], finding: _Finding) -> _Finding:
    """Name a key the way its user did, where that was an old spelling."""
    place: Any = raw
    for step in finding.path[:-1]:
        place = _inside(place, step)
    if not finding.path or not isinstance(place, dict) or finding.missing:
        return finding
    given, last = cast("dict[str, Any]", place), str(finding.path[-1])
    old = next((name for name in old_spellings(last) if name in given), None) if last not in given else None
    return replace(finding, path=(*finding.path[:-1], old)) if old else finding


def _inside(place: Any, step: str | int) -> Any:
    if isinstance(place, dict):
        return cast("dict[Any, Any]", place).get(step)
    if isinstance(place, list) and isinstance(step, int) and step < len(cast("list[Any]", place)):
        return cast("list[Any]", place)[step]
    return None
