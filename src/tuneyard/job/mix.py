"""PRECOMPUTE_WEIGHTED_MIX: how often each row of several files is trained on in an epoch. Pure; loads no torch.

An epoch is as long as with CONCATENATION, and the files' shares of it are those of their weights, exact to a row by the
method of the largest remainder. A file that contributes more rows than it has is repeated as a whole as often as
possible, and the rest is drawn without replacement: the counts of two rows of a file differ by at most one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction


def mix_counts(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number of rows by weights.

    Args:
        total: How many rows there are to be.
        weights: Of each file, above 0.

    Returns:
        The rows of each file, `total` in all; each at most one away from its exact share. Equal remainders go to the
        earlier file.
    """
    exact = [total * Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda place: (counts[place] - exact[place], place))
    for place in by_remainder[: total - sum(counts)]:
        counts[place] += 1
    return counts


def mix_rows(sizes: Sequence[int], counts: Sequence[int], seed: int) -> list[tuple[int, int]]:
    """Draw the rows of a mix.

    Args:
        sizes: How many rows each file has; above 0 if rows of it are drawn.
        counts: How many rows of each are drawn.
        seed: Decides which rows are taken once more than others, and the order.

    Returns:
        (file, row) in the order of the mix; the same for the same arguments, on any machine.
    """
    drawn: list[tuple[int, int, int]] = []
    for file, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        if not count:
            continue
        passes, rest = divmod(count, size)
        drawn += [(file, row, copy) for copy in range(passes) for row in range(size)]
        drawn += sorted(((file, row, passes) for row in range(size)), key=lambda each: _place(seed, "draw", each))[
            :rest
        ]
    return [(file, row) for file, row, _ in sorted(drawn, key=lambda each: _place(seed, "order", each))]


def describe(names: Sequence[str], sizes: Sequence[int], counts: Sequence[int]) -> str:
    """Describe in one line what the mix takes of each file."""
    total = sum(counts)
    parts: list[str] = []
    for name, size, count in zip(names, sizes, counts, strict=True):
        most = math.ceil(count / size) if size else 0
        often = f"each up to {most} times" if most > 1 else "each at most once"
        parts.append(f"{count} rows ({count / total:.1%}) of {name}, which has {size}, {often}")
    return f"An epoch mixes {'; '.join(parts)}."


def _place(seed: int, what: str, row: tuple[int, int, int]) -> bytes:
    return hashlib.blake2b(repr((what, *row)).encode(), digest_size=16, key=str(seed).encode()).digest()
