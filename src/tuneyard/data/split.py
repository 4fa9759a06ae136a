"""AUTO_SPLIT: which rows are for training and which for validation. Decided by content and seed, never by row order."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from tuneyard.data.encoding import Encoded
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem


def split(
    rows: Sequence[Sequence[Encoded]], ratio: float, seed: int, groups: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Divide rows into training and validation.

    A row's sequences go to one side together, as do rows of equal tokens, so that nothing is validated on what was
    learnt by heart. The same content, ratio and seed give the same sides, in whatever order the rows come.

    Args:
        rows: Rows as their sequences, none of them dropped.
        ratio: The share of validation rows, above 0 and below 1; at least one row goes to each side.
        seed: Chooses among the possible divisions.
        groups: A number for each row; rows of one number go to one side too, such as those that are nearly equal.

    Returns:
        The indices of the training rows and those of the validation rows, each ascending.

    Raises:
        InvalidValuesError: Where the ratio is no share.
        InvalidDataError: Where there are fewer than two different rows.
    """
    if not 0 < ratio < 1:
        where = "finetuning_config.data_conf.validation_data.ratio"
        problem = Problem(where, "is not a share", str(ratio), "above 0 and below 1")
        raise InvalidValuesError(f"{where} is {ratio}, which is not a share of the rows.", problems=[problem])
    places = [_place(row, seed) for row in rows]
    together = _together(places, groups or range(len(rows)))
    if len(together) < 2:
        raise InvalidDataError(
            f"AUTO_SPLIT needs at least two different rows, and there are {len(together)} among {len(rows)}.",
            hint="Add data, or set finetuning_config.data_conf.validation_data.type=NONE",
            problems=[],
        )
    validation = _take(together, max(1, round(ratio * len(rows))))
    chosen = set(validation)
    return [index for index in range(len(rows)) if index not in chosen], sorted(validation)


def _together(places: Sequence[bytes], groups: Sequence[int]) -> dict[bytes, list[int]]:
    """Join rows of one place, and those of one group, under the least place among them."""
    first_of: dict[bytes | int, int] = {}
    leader = list(range(len(places)))

    def lead(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for index, marks in enumerate(zip(places, groups, strict=True)):
        for mark in marks:
            leader[lead(index)] = lead(first_of.setdefault(mark, index))
    joined: dict[int, list[int]] = defaultdict(list)
    for index in range(len(places)):
        joined[lead(index)].append(index)
    return {min(places[index] for index in indices): indices for indices in joined.values()}


def _take(groups: dict[bytes, list[int]], wanted: int) -> list[int]:
    in_order = [groups[place] for place in sorted(groups)]
    taken: list[int] = []
    left = len(in_order)
    for group in in_order:
        if left > 1 and len(taken) + len(group) <= wanted:
            taken += group
            left -= 1
    # every group may be larger than the share: then the smallest is the nearest to it
    return taken or min(in_order, key=len)


def _place(row: Sequence[Encoded], seed: int) -> bytes:
    ids = ";".join(",".join(map(str, sequence.input_ids)) for sequence in row)
    return hashlib.blake2b(ids.encode(), digest_size=16, key=str(seed).encode()).digest()
