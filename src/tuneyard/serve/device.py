"""Which device our own app computes on, by the same rule as training: never a silent run on the CPU."""

from __future__ import annotations

import os

from tuneyard.errors import AcceleratorMissingError, InvalidValuesError, Problem, UsageError

VARIABLE = "TUNEYARD_DEVICE"


def choose_device(gpu_resource: str, gpus: int) -> str:
    """Choose the device that values and `TUNEYARD_DEVICE` ask for.

    Args:
        gpu_resource: `gpuResource` of the values; empty means the CPU.
        gpus: `gpus` of the values.

    Returns:
        torch's name of the device: `cpu`, `cuda` (AMD's too) or `mps`.

    Raises:
        AcceleratorMissingError: An accelerator is asked for and this machine has none.
        InvalidValuesError: Several are asked for: our own app uses one.
        UsageError: `TUNEYARD_DEVICE` names no device.
    """
    named = os.environ.get(VARIABLE, "")
    if named not in ("", "cpu", "cuda", "mps"):
        raise UsageError(f"{VARIABLE} is {named!r}; allowed: cpu, cuda, mps.", hint=f"Unset {VARIABLE}, or set cpu.")
    if named == "cpu" or (not named and not gpu_resource):
        return "cpu"
    import torch

    device = named or ("mps" if torch.backends.mps.is_available() else "cuda")
    present = torch.backends.mps.is_available() if device == "mps" else torch.cuda.is_available()
    if not present:
        raise AcceleratorMissingError(
            f"An accelerator was asked for (gpuResource={gpu_resource!r}) and this machine has none.",
            hint=f"Set {VARIABLE}=cpu to serve from the CPU, or --set gpuResource= in the values.",
            wanted=gpus,
            present=0,
        )
    if gpus > 1:
        problem = Problem("gpus", "needs vLLM, which is not installed here", str(gpus), "1")
        raise InvalidValuesError(f"{gpus} accelerators for one server need vLLM.", problems=[problem])
    return device
