"""The names that served models answer to: told by values, or the part of their place that means something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from tuneyard.errors import InvalidValuesError, Problem

_FLAG = "vllm_engine_args.served_model_name"


def told_names(told: Any) -> tuple[str, ...]:
    """Read `served_model_name`, one name or a list of them as vLLM takes it.

    Args:
        told: The flag's value; None where it isn't given.

    Returns:
        The names; empty where none are told.

    Raises:
        InvalidValuesError: It holds something else.
    """
    names: list[Any] = cast("list[Any]", told) if isinstance(told, list) else [] if told in (None, "") else [told]
    if all(isinstance(name, str | int) and not isinstance(name, bool) and str(name).strip() for name in names):
        return tuple(str(name) for name in names)
    problem = Problem(_FLAG, "is not a name or a list of names", repr(told))
    raise InvalidValuesError(f"{_FLAG} is not a name or a list of names.", problems=[problem])


def own_name(where: str, about: Mapping[str, Any]) -> str:
    """Name a model by its place: its last part, or for what a run has published, the run's.

    Args:
        where: Its key or folder.
        about: What its manifest tells of it.
    """
    parts = where.rstrip("/").split("/")
    if not parts[-1].startswith("checkpoint-"):
        return parts[-1]
    if len(parts) > 2:  # bucket/…/run/checkpoint-final
        return parts[-2]
    return str(about.get("run") or parts[-1])


def base_name(where: str, *, taken: Sequence[str]) -> str:
    """Name the base under an adapter by the last part of its place, or by `base-…` where that is taken.

    Args:
        where: Its key.
        taken: The names of the adapters.
    """
    name = own_name(where, {})
    while name in taken:
        name = f"base-{name}"
    return name


def check_distinct(names: Sequence[str]) -> None:
    """Check that no two models have one name.

    Raises:
        InvalidValuesError: Two have.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        problem = Problem("adapters", "gives a name that another model has", ", ".join(twice))
        raise InvalidValuesError(
            f"Two models would answer to the name {twice[0]!r}.",
            hint=f"Take other names in adapters, or in {_FLAG}.",
            problems=[problem],
        )
