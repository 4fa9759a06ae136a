"""Private state of transformers' configs and torch's tensors that the checks of a model use, and why each is needed.

`tests/unit/network/test_private.py` fails when a library renames one of them or changes its meaning.
"""

from __future__ import annotations

from typing import Any

import torch


def attention_of(config: Any) -> str:
    """Return the attention implementation of a model.

    `set_attn_implementation` is public, but nothing public returns what it set.

    Args:
        config: The config of a `PreTrainedModel`.
    """
    return config._attn_implementation


def choose_attention(config: Any, name: str) -> None:
    """Set the attention implementation of a model that is not built yet.

    `attn_implementation` is an argument of `from_pretrained`; a model that is made of a config alone takes it from
    there.

    Args:
        config: The config of a `PreTrainedModel`.
        name: The implementation.
    """
    config._attn_implementation = name


def tensors_of(module: Any) -> tuple[dict[str, torch.Tensor | None], dict[str, torch.Tensor | None]]:
    """Return a module's own parameters and buffers, whose entries may be replaced by tensors of another kind.

    Assigning an attribute refuses a plain tensor for a parameter.

    Args:
        module: A module; its submodules are not included.
    """
    return module._parameters, module._buffers


def storage_address(tensor: torch.Tensor) -> int:
    """Return a number that differs between storages that exist at the same time.

    A fake tensor has no memory, so its `data_ptr` is always 0.

    Args:
        tensor: Any tensor.
    """
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
