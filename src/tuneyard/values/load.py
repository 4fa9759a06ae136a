"""Values from files and `--set`: merged, checked, and every problem reported at once.

Precedence as with Helm: defaults, then files from left to right, then `--set`. Maps are merged, lists replaced, and a
null restores the default. The checks themselves are beside the fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from yaml import YAMLError
from yaml.error import MarkedYAMLError

from tuneyard.errors import InvalidValuesError, NotFoundError, Problem
from tuneyard.values.base import NOTICE, Values
from tuneyard.values.helm_set import SetSyntaxError, apply_set
from tuneyard.values.problems import every_problem
from tuneyard.values.public import ENV_KEYS
from tuneyard.values.yaml_text import parse_yaml

V = TypeVar("V", bound=Values)

Notice = Callable[[str], None]


def load_values(
    model: type[V],
    files: Sequence[Path] = (),
    sets: Sequence[str] = (),
    *,
    below: Mapping[str, Any] | None = None,
    above: Mapping[str, Any] | None = None,
    notice: Notice | None = None,
) -> V:
    """Resolve values from files, maps and `--set`.

    Args:
        model: `NamespaceValues`, `DeliverValues`, `FinetuneValues` or `InferenceValues`.
        files: YAML or JSON files; later ones win.
        sets: Texts of `--set` with Helm's syntax; later ones win, and all of them over everything else.
        below: Values that every file wins over.
        above: Values that win over every file.
        notice: Called with one line for each old spelling that was read and for whatever has no effect.

    Returns:
        The resolved values, every default filled in.

    Raises:
        NotFoundError: Where a file isn't there.
        InvalidValuesError: With every problem of files, `--set` and values.
    """
    problems: list[Problem] = []
    merged = dict(below or {})
    for file in files:
        merged = merge(merged, _read_file(file, problems))
    merged = merge(merged, above or {})
    for text in sets:
        try:
            merged = apply_set(merged, text)
        except SetSyntaxError as error:
            problems.append(_set_problem(text, error))
    return _check(model, merged, problems, notice)


def check_values(model: type[V], given: Mapping[str, Any], *, notice: Notice | None = None) -> V:
    """Resolve values from a map.

    Args:
        model: What they should be.
        given: The values as a file would have them.
        notice: Called with one line for each old spelling that was read and for whatever has no effect.

    Returns:
        The resolved values.

    Raises:
        InvalidValuesError: With every problem.
    """
    return _check(model, dict(given), [], notice)


def read_values(model: type[V], path: Path) -> V:
    """Read the file of resolved values of a process.

    Args:
        model: What they should be.
        path: The file that `canonical_json` was written to.

    Returns:
        The values.

    Raises:
        NotFoundError: Where the file isn't there.
        InvalidValuesError: With every problem.
    """
    return load_values(model, [path])


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge one map over another, as Helm does with values.

    Args:
        under: The map below.
        over: The map above: it wins, maps in both are merged, and its nulls stay to take the default back.

    Returns:
        A new map.
    """
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            merged[key] = merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        else:
            merged[key] = value
    return merged


def without_nulls(value: Any) -> Any:
    """Remove the nulls from maps, at every depth; a list keeps its own."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: without_nulls(item) for key, item in items if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in cast("list[Any]", value)]
    return value


def _check(model: type[V], merged: dict[str, Any], problems: list[Problem], notice: Notice | None) -> V:
    given = without_nulls(merged)
    try:
        values = model.model_validate(given, context={NOTICE: notice})
    except ValidationError as error:
        raise _invalid(model, [*problems, *every_problem(model, given, error)]) from None
    if problems:
        raise _invalid(model, problems)
    return values


def _invalid(model: type[Values], problems: Sequence[Problem]) -> InvalidValuesError:
    what = str(problems[0]) if len(problems) == 1 else f"{len(problems)} problems"
    text = f"Invalid values: {what}{'' if what.endswith('?') else '.'}"
    return InvalidValuesError(
        text, hint=f"List every key: tuneyard values schema {model.kind}", problems=list(problems)
    )


def _read_file(file: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no values file '{file}'.", hint="Check the path given with -f.", file=str(file)
        ) from None
    except UnicodeDecodeError:
        problems.append(Problem(str(file), "is not UTF-8 text"))
        return {}
    except OSError as error:
        raise NotFoundError(f"The values file '{file}' can't be read: {error.strerror}.", file=str(file)) from None
    try:
        read = parse_yaml(text)
    except YAMLError as error:
        problems.append(_yaml_problem(file, error))
        return {}
    if read is None:
        return {}
    if not isinstance(read, dict):
        problems.append(Problem(str(file), "is not a map", allowed="keys and values"))
        return {}
    return cast("dict[str, Any]", read)


def _set_problem(text: str, error: SetSyntaxError) -> Problem:
    if any(re.search(rf"\b{key}\b", text) for key in ENV_KEYS):  # its text may be a secret, or a part of one the error
        allowed = "key.path=value, with a backslash before each comma and brace of the value"
        return Problem("--set", "can't be parsed; its value is not shown, since it may be a secret", allowed=allowed)
    shown = text if len(text) <= 80 else f"{text[:79]}…"
    return Problem("--set", f"can't be parsed: {error}", value=shown, allowed="key.path=value")


def _yaml_problem(file: Path, error: YAMLError) -> Problem:
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        where = f"{file}:{error.problem_mark.line + 1}"
        return Problem(where, f"is not YAML: {error.problem or error.context}")
    return Problem(str(file), f"is not YAML: {error}")
