"""Amounts of resources as Kubernetes writes them, read as numbers and written for people. Pure."""

from __future__ import annotations

_UNITS = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    **{unit: 1000.0**power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", 1)},
}
_BYTES = ("memory", "storage")


def amount_of(text: str) -> float:
    """Read an amount: `500m`, `64Gi`, `8`, `1e3`.

    Args:
        text: As in `requests`; bytes for memory and storage, cores for `cpu`, a count for all else.
    """
    for unit in sorted(_UNITS, key=len, reverse=True):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * _UNITS[unit]
    return float(text)


def written(resource: str, amount: float) -> str:
    """Write an amount with its resource: `8 amd.com/gpu`, `64 Gi memory`.

    Args:
        resource: The resource's name.
        amount: As `amount_of` gives it.
    """
    return f"{number(resource, amount)} {resource}"


def number(resource: str, amount: float) -> str:
    """Write an amount alone, bytes in binary units.

    Args:
        resource: The resource's name.
        amount: As `amount_of` gives it.
    """
    if resource.endswith(_BYTES):
        for unit, size in (("Gi", 2.0**30), ("Mi", 2.0**20)):
            if abs(amount) >= size:
                return f"{amount / size:.4g} {unit}"
    return f"{amount:.6g}"
