"""Marks by which a row says of one message whether it is to be learnt: `weight`, `train`, `loss` and their like.

Other tools write them (OpenAI's finetuning `weight` of 0 or 1, `train` and `loss` of true or false). A mark that is
passed over would train what its author kept out, so a value that is neither yes nor no refuses the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneyard.data.conversations import shown

NUMBERS = ("weight",)
TRUTHS = ("train", "loss", "trainable", "training")
MARKS = (*NUMBERS, *TRUTHS)


class UnclearMarkError(ValueError):
    """Raised where a mark says neither yes nor no.

    Args:
        what: What is wrong with it.
        value: What the row has there.
        allowed: What it may have.
    """

    def __init__(self, what: str, value: str, allowed: str) -> None:
        super().__init__(what)
        self.what, self.value, self.allowed = what, value, allowed


def mark_of(message: Mapping[str, Any], name: str) -> bool | None:
    """Read the marks of a message.

    Args:
        message: As the row has it. A null is as good as absent, as Parquet has it for rows without the field.
        name: What the row calls the message.

    Returns:
        Whether it is to be learnt; None where nothing marks it.

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
            raise UnclearMarkError(f"{name}.{key} is neither 0 nor 1", shown(value), "0 (not learnt) or 1")
        if key in TRUTHS and not is_truth:
            raise UnclearMarkError(
                f"{name}.{key} is neither true nor false", shown(value), "false (not learnt) or true"
            )
        found[key] = bool(value)
    if len(set(found.values())) > 1:
        marks = ", ".join(f"{key}: {shown(message[key])}" for key in found)
        raise UnclearMarkError(f"{name} has marks that contradict each other", marks, "one of them")
    return next(iter(found.values()), None)
