"""Every key of a values model, at any depth, for tests that cover all of them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from tuneyard.values import Values
from tuneyard.values.base import ClusterOnly


def keys_of(model: type[Values], prefix: str = "", *, cluster: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield each key's dotted path and whether it is for clusters alone.

    The entries of a list are `key[]`, those of a map whose names a user chooses `key.<name>`.

    Args:
        model: The model.
        prefix: Of its paths.
        cluster: Whether a key above is for clusters alone.
    """
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        marked = cluster or any(isinstance(mark, ClusterOnly) for mark in field.metadata)
        inner = list(_models(field.annotation, path))
        if not inner or any(where != path for where, _ in inner):
            yield path, marked
        for where, kind in inner:
            yield from keys_of(kind, f"{where}.", cluster=marked)


def _models(annotation: Any, path: str) -> Iterator[tuple[str, type[Values]]]:
    if isinstance(annotation, type) and issubclass(annotation, Values):
        yield path, annotation
        return
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    elif origin is list:
        path += "[]"
    elif origin is dict:
        path += ".<name>"
    for argument in arguments:
        yield from _models(argument, path)
