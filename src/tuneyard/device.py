"""The device that a process computes on; it never falls back silently to a slower one."""

from __future__ import annotations

import os
from typing import Literal, cast

from tuneyard.errors import AcceleratorMissingError, UsageError
from tuneyard.whereabouts import assignment, setting

Device = Literal["cpu", "cuda", "mps"]
"""torch's names; `cuda` is also what torch calls AMD's accelerators (ROCm)."""

VARIABLE = "TUNEYARD_DEVICE"


def choose_device(gpu_resource: str, wanted: int, *, key: str) -> Device:
    """Choose the device that values and `TUNEYARD_DEVICE` configure.

    Args:
        gpu_resource: `gpuResource` of the values; empty means the CPU.
        wanted: The number of accelerators requested.
        key: The key of the values with that number, for messages.

    Returns:
        The device's torch name.

    Raises:
        AcceleratorMissingError: This machine has fewer accelerators than requested.
        UsageError: `TUNEYARD_DEVICE` is none of `cpu`, `cuda` and `mps`.
    """
    named = os.environ.get(VARIABLE, "")
    if named not in ("", "cpu", "cuda", "mps"):
        raise UsageError(
            f"{VARIABLE} is '{named}'; allowed: cpu, cuda, mps.", hint=f"Correct or remove {setting(VARIABLE)}."
        )
    if named == "cpu" or (not named and not gpu_resource):
        return "cpu"
    import torch

    device = cast(Device, named or ("mps" if torch.backends.mps.is_available() else "cuda"))
    present = torch.cuda.device_count() if device == "cuda" else int(torch.backends.mps.is_available())
    if present < wanted:
        raise AcceleratorMissingError(
            f"The values request {wanted} accelerator(s) ({key}={wanted}, gpuResource={gpu_resource!r}), "
            f"but this machine has {present or 'none'}.",
            hint=f"To use the CPU: {assignment(VARIABLE, 'cpu')}, or --set gpuResource= in the values.",
            wanted=wanted,
            present=present,
        )
    return device
