"""The modules that an adapter is added to, by PEFT's rules for names, and the refusal of entries that match none.

PEFT adapts the modules that match and ignores an entry that matches none, so one misspelt name of several trains a
smaller adapter than configured. Loads no torch: names and strings alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tuneyard.errors import InvalidValuesError, Problem

WHERE = "finetuning_config.peft_conf.peft_kwargs"
ALL_LINEAR = "all-linear"

_LAYER = re.compile(r".*\.[^.]*\.(\d+)\.")


def names(entry: str | Sequence[str], module: str) -> bool:
    """Whether an entry (a regular expression) or one of several (ends of names) matches a module.

    Args:
        entry: `target_modules`, `exclude_modules` or `modules_to_save`.
        module: The module's whole dotted name.
    """
    if isinstance(entry, str):
        return re.fullmatch(entry, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in entry)


def adapted(modules: Collection[str], kwargs: Mapping[str, Any]) -> list[str]:
    """Return the modules that `target_modules`, `exclude_modules` and `layers_to_transform` select.

    Args:
        modules: Names of the modules there are.
        kwargs: Arguments of `peft.LoraConfig`, with `target_modules` in them.
    """
    chosen = [name for name in modules if names(kwargs["target_modules"], name)]
    if excluded := kwargs.get("exclude_modules"):
        chosen = [name for name in chosen if not names(excluded, name)]
    layers = kwargs.get("layers_to_transform")
    if layers is None or isinstance(kwargs["target_modules"], str):
        return chosen
    patterns = kwargs.get("layers_pattern") or None
    wanted = {layers} if isinstance(layers, int) else set(layers)
    return [name for name in chosen if _layer(name, patterns) in wanted]


def refuse_unmatched(modules: Collection[str], kwargs: Mapping[str, Any], offered: Collection[str]) -> None:
    """Refuse entries of `target_modules`, `feedforward_modules` and `modules_to_save` that match no module.

    Args:
        modules: Names of all modules there are.
        kwargs: Arguments of PEFT's configuration.
        offered: Names of those that can be adapted, for the error message.

    Raises:
        InvalidValuesError: With every such entry.
    """
    problems: list[Problem] = []
    allowed = ", ".join(sorted({name.rpartition(".")[2] for name in offered})[:16])
    for key in ("target_modules", "feedforward_modules", "modules_to_save"):
        given = kwargs.get(key)
        if given is None or given == ALL_LINEAR:
            continue
        entries: list[Any] = [given] if isinstance(given, str) else [[entry] for entry in given]
        for place, entry in enumerate(entries):
            if not any(names(entry, module) for module in modules):
                where = f"{WHERE}.{key}" if isinstance(entry, str) else f"{WHERE}.{key}[{place}]"
                value = entry if isinstance(entry, str) else entry[0]
                problems.append(Problem(where, "matches no module of the base model", str(value), allowed))
    if problems:
        raise InvalidValuesError(
            f"{problems[0].where} '{problems[0].value}' matches no module of the base model.",
            problems=problems,
            hint=f"Choose among {allowed}, or use --set {WHERE}.target_modules={ALL_LINEAR}.",
        )


def _layer(name: str, patterns: str | Sequence[str] | None) -> int | None:
    for pattern in [patterns] if isinstance(patterns, str) else patterns or [None]:
        found = re.match(rf".*\.{pattern}\.(\d+)\.", name) if pattern else _LAYER.match(name)
        if found:
            return int(found.group(1))
    return None
