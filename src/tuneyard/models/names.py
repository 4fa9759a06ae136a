"""Names of weights for people: those that differ in a layer's number alone on one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def grouped(names: Iterable[str]) -> list[str]:
    """Write names with the numbers of layers gathered: `model.layers.{2-4}.mlp.up_proj.weight`.

    Args:
        names: Dotted names of weights.

    Returns:
        One text for each set of names that differ in their first number alone, sorted.
    """
    layers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        found = _NUMBER.search(name)
        key = (name[: found.start()], name[found.end() :]) if found else (name, "")
        layers.setdefault(key, set()).update({int(found[0])} if found else ())
    return sorted(f"{before}{_span(numbers)}{after}" for (before, after), numbers in layers.items())


def _span(numbers: set[int]) -> str:
    if len(numbers) < 2:
        return "".join(map(str, numbers))
    ordered = sorted(numbers)
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{{{ordered[0]}-{ordered[-1]}}}"
    return f"{{{','.join(map(str, ordered))}}}"
