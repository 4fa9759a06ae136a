"""Faulty merges, each as a bug in PEFT's merge or transformers' save could cause: for tests and `benchmarks/merges.py`.

`broken` patches the two libraries for the duration of a `with` block.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTuner
from transformers import PreTrainedModel

Broken = Callable[[Any], None]


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _scaled(factor: float) -> Broken:
    def scale(model: Any) -> None:
        for layer in _layers(model):
            layer.scaling["default"] *= factor

    return scale


def _lose(weights: list[Any]) -> None:
    for weight in weights:
        with torch.no_grad():
            weight.zero_()


def _one_layer_lost(model: Any) -> None:
    dense = [layer for layer in _layers(model) if layer.lora_B]
    _lose([dense[len(dense) // 2].lora_B["default"].weight])


def _embeddings_lost(model: Any) -> None:
    _lose([layer.lora_embedding_B["default"] for layer in _layers(model) if layer.lora_embedding_B])


def _transposed(model: Any) -> None:
    """Transpose the update of each square weight."""
    for layer in _layers(model):
        if layer.lora_A and layer.in_features == layer.out_features:
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            with torch.no_grad():
                one, other = up.T.clone(), down.T.clone()
                down.copy_(one)
                up.copy_(other)


MERGES: dict[str, Broken] = {
    "one layer is not merged": _one_layer_lost,
    "merged twice": _scaled(2.0),
    "scaled by 1.1": _scaled(1.1),
    "scaled by 0.9": _scaled(0.9),
    "a change is transposed": _transposed,
}
"""Faults applied to an adapted model right before it is merged."""

EMBEDDINGS: dict[str, Broken] = {"the change of the embeddings is lost": _embeddings_lost}
"""Faults for adapters on the embeddings."""


def _lose_head(model: Any) -> None:
    """Replace an untied head by the embeddings; zero a tied one."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if inputs.weight is outputs.weight:
        _lose([outputs.weight])
    outputs.weight = inputs.weight
    model.config.tie_word_embeddings = True


def _lose_norm(model: Any) -> None:
    """Set a norm's weight to 0.5, which no architecture initializes norms with (Gemma's start at 0)."""
    norm = next(weight for name, weight in model.named_parameters() if "norm" in name or "ln_" in name)
    with torch.no_grad():
        norm.fill_(0.5)


def _lose_rotation(model: Any) -> None:
    """Change a setting of the config that the weights don't show."""
    parameters = getattr(model.config, "rope_parameters", None)
    if parameters:
        model.config.rope_parameters = {**parameters, "rope_theta": parameters["rope_theta"] / 50}


SAVES: dict[str, Broken] = {
    "the head is lost": _lose_head,
    "a norm is lost": _lose_norm,
    "another rotation is written": _lose_rotation,
}
"""Faults applied to a merged model right before it is saved."""


@contextmanager
def broken(kind: str) -> Generator[None]:
    """Apply a fault of `MERGES`, `EMBEDDINGS` or `SAVES` to each merge in the `with` block."""
    merge, save = BaseTuner.merge_and_unload, PreTrainedModel.save_pretrained

    def merging(model: Any, *args: Any, **keywords: Any) -> Any:
        {**MERGES, **EMBEDDINGS}.get(kind, _nothing)(model)
        return merge(model, *args, **keywords)

    def saving(model: Any, *args: Any, **keywords: Any) -> Any:
        SAVES.get(kind, _nothing)(model)
        return save(model, *args, **keywords)

    with patch.object(BaseTuner, "merge_and_unload", merging), patch.object(PreTrainedModel, "save_pretrained", saving):
        yield


def _nothing(model: Any) -> None:
    del model
