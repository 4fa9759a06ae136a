"""Disables dropout throughout a model, and checks that none is left.

Models apply dropout in modules and, in attention, by a probability that they pass to a function. So every module's
numbers are checked, and then the model itself: two passes in training mode with other random numbers must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.network.forms import Forward

_WHERE = "finetuning_config.dpo_args.disable_dropout"


def disable_dropout(model: torch.nn.Module, forward: Forward, row: Mapping[str, Any]) -> None:
    """Disable dropout, and check that none is left.

    Args:
        model: The model, with an adapter or without, on its device.
        forward: Runs rows through it.
        row: The result of `flatten` for some rows, on the model's device.

    Raises:
        InvalidValuesError: The model still computes something random.
    """
    switch_off(model)
    training = model.training
    model.train()
    devices = [parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"][:1]
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        logits: list[torch.Tensor] = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            logits.append(forward(model, row).logits_KV)
    model.train(training)
    if not torch.equal(logits[0], logits[1]):
        problem = Problem(_WHERE, "can't be honoured: the model is not deterministic in training mode", "true", "false")
        raise InvalidValuesError(f"{problem}.", problems=[problem], hint=f"Use --set {_WHERE}=false.")


def switch_off(model: torch.nn.Module) -> None:
    """Set every probability of dropout in a model to 0."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or (name == "p" and "Drop" in type(module).__name__)):
                setattr(module, name, 0.0)
