"""AUTO_SPLIT: divide rows into training and validation by content and seed, never by row order."""

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

    A row's sequences are on one side, as are rows of equal tokens, so that no validation row has been memorised in
    training. The same content, ratio and seed give the same sides, whatever the order of the rows.

    Args:
        rows: Rows as their sequences, none of them dropped.
        ratio: The share of validation rows, above 0 and below 1; at least one row is on each side.
        seed: Chooses among the possible splits.
        groups: A number for each row; rows with the same number are on one side too, such as nearly equal ones.

    Returns:
        The indices of the training rows and those of the validation rows, each ascending.

    Raises:
        InvalidValuesError: If the ratio is not between 0 and 1.
        InvalidDataError: If there are fewer than two different rows.
    """
    if not 0 < ratio < 1:
        where = "finetuning_config.data_conf.validation_data.ratio"
        problem = Problem(where, "is not a share", str(ratio), "above 0 and below 1")
        raise InvalidValuesError(f"{where} is '{ratio}', which is not a share of the rows.", problems=[problem])
    places = [_place(row, seed) for row in rows]
    together = _together(places, groups or range(len(rows)))
    if len(together) < 2:
        raise InvalidDataError(
            f"AUTO_SPLIT needs at least two different rows; there are {len(together)} among {len(rows)}.",
            hint="Add data, or set finetuning_config.data_conf.validation_data.type=NONE",
            problems=[],
        )
    validation = _take(together, max(1, round(ratio * len(rows))))
    chosen = set(validation)
    return [index for index in range(len(rows)) if index not in chosen], sorted(validation)


def _together(places: Sequence[bytes], groups: Sequence[int]) -> dict[bytes, list[int]]:
    """Join rows with the same place or group, under the least place among them."""
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
    # If every group is larger than the share, the smallest is the nearest to it.
    return taken or min(in_order, key=len)


def _place(row: Sequence[Encoded], seed: int) -> bytes:
    ids = ";".join(",".join(map(str, sequence.input_ids)) for sequence in row)
    return hashlib.blake2b(ids.encode(), digest_size=16, key=str(seed).encode()).digest()
