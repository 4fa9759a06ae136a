"""Kubernetes resource quantities: parsed as numbers, and formatted for people. Pure."""

from __future__ import annotations

_SUFFIXES = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    **{suffix: 1000.0**power for power, suffix in enumerate("kMGTPE", 1)},
    **{f"{suffix}i": 1024.0**power for power, suffix in enumerate("KMGTPE", 1)},
}
_IN_BYTES = ("memory", "storage")


def parse_quantity(text: str) -> float:
    """Parse a quantity: `500m`, `64Gi`, `8`, `1e3`.

    Args:
        text: The quantity, as in `requests`.

    Returns:
        Bytes for memory and storage, cores for `cpu`, a count for any other resource.
    """
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return float(text)


def format_resource(resource: str, quantity: float) -> str:
    """Format a quantity with its resource: `8 amd.com/gpu`, `64 Gi memory`.

    Args:
        resource: The resource's name.
        quantity: As `parse_quantity` returns it.
    """
    return f"{format_quantity(resource, quantity)} {resource}"


def format_quantity(resource: str, quantity: float) -> str:
    """Format a quantity alone, bytes in binary units: `8`, `64 Gi`.

    Args:
        resource: The resource's name.
        quantity: As `parse_quantity` returns it.
    """
    if resource.endswith(_IN_BYTES):
        for suffix, size in (("Gi", 2.0**30), ("Mi", 2.0**20)):
            if abs(quantity) >= size:
                return f"{quantity / size:.4g} {suffix}"
    return f"{quantity:.6g}"
