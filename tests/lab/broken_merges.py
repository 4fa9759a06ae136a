"""Merges that go wrong, each as a merge or a save of a library could: for tests, and for `benchmarks/merges.py`.

Not fixtures: plain functions. What is broken is PEFT's merge, or transformers' save, for the duration of a block.
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
    """Merge the transpose of a change of a square weight."""
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
"""What changes an adapted model right before it is merged."""

EMBEDDINGS: dict[str, Broken] = {"the change of the embeddings is lost": _embeddings_lost}
"""The same, for adapters on the embeddings."""


def _lose_head(model: Any) -> None:
    """Write a head of its own as the embeddings; where it is the embeddings, lose both."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if inputs.weight is outputs.weight:
        _lose([outputs.weight])
    outputs.weight = inputs.weight
    model.config.tie_word_embeddings = True


def _lose_norm(model: Any) -> None:
    """Give a norm a weight that no kind of norm begins with: zero is where Gemma's do."""
    norm = next(weight for name, weight in model.named_parameters() if "norm" in name or "ln_" in name)
    with torch.no_grad():
        norm.fill_(0.5)


def _lose_rotation(model: Any) -> None:
    """Write settings that are not the model's, beside weights that are."""
    parameters = getattr(model.config, "rope_parameters", None)
    if parameters:
        model.config.rope_parameters = {**parameters, "rope_theta": parameters["rope_theta"] / 50}


SAVES: dict[str, Broken] = {
    "the head is lost": _lose_head,
    "a norm is lost": _lose_norm,
    "another rotation is written": _lose_rotation,
}
"""What changes a merged model right before it is saved."""


@contextmanager
def broken(kind: str) -> Generator[None]:
    """Break each merge in the block, in one of the ways above."""
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
