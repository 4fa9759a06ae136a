"""Marks of whether one message of a row is trained: `weight`, `train`, `loss` and similar.

Other tools write them (OpenAI's finetuning `weight` of 0 or 1, `train` and `loss` of true or false). Ignoring a mark
would train what its author excluded, so a value that is neither yes nor no refuses the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneyard.data.conversations import shown

NUMBERS = ("weight",)
TRUTHS = ("train", "loss", "trainable", "training")
MARKS = (*NUMBERS, *TRUTHS)


class UnclearMarkError(ValueError):
    """Raised if a mark is neither yes nor no.

    Args:
        what: What is wrong with it.
        value: The row's value.
        allowed: The allowed values.
    """

    def __init__(self, what: str, value: str, allowed: str) -> None:
        super().__init__(what)
        self.what, self.value, self.allowed = what, value, allowed


def mark_of(message: Mapping[str, Any], name: str) -> bool | None:
    """Read the marks of a message.

    Args:
        message: The row's message. A null counts as absent, since Parquet has it for rows without the field.
        name: The message's name in the row.

    Returns:
        Whether it is trained; None if it has no mark.

    Raises:
        UnclearMarkError: A mark is neither yes nor no, or two of them contradict each other.
    """
    found: dict[str, bool] = {}
    for key in MARKS:
        value = message.get(key)
        if value is None:
            continue
        is_truth = isinstance(value, bool)
        if key in NUMBERS and (is_truth or not isinstance(value, int | float) or value not in (0, 1)):
            raise UnclearMarkError(f"{name}.{key} is neither 0 nor 1", shown(value), "0 (not trained) or 1")
        if key in TRUTHS and not is_truth:
            raise UnclearMarkError(
                f"{name}.{key} is neither true nor false", shown(value), "false (not trained) or true"
            )
        found[key] = bool(value)
    if len(set(found.values())) > 1:
        marks = ", ".join(f"{key}: {shown(message[key])}" for key in found)
        raise UnclearMarkError(f"{name} has marks that contradict each other", marks, "one of them")
    return next(iter(found.values()), None)
