"""Finds contradictions between a model's headers, index and config, without torch.

These are what names and shapes alone reveal: files that an index leaves out, missing layers, a head that is neither
there nor tied. Only transformers knows all weights of an architecture (`loading`); it is used wherever it is installed,
and always before training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from tuneyard.errors import Problem
from tuneyard.models.headers import Tensor
from tuneyard.models.names import grouped

INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_SHARD = re.compile(r".*-(\d+)-of-(\d+)\.safetensors")
_NUMBERED = re.compile(r"(.*?)\.(\d+)\.")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_FEW_LAYERS = 1000
_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.")
"""The prefixes of torch's and PEFT's wrappers, where the state of a wrapped model was saved."""


def structure_problems(
    tensors: Mapping[str, Mapping[str, Tensor]], index: Mapping[str, Any] | None, config: Mapping[str, Any]
) -> list[Problem]:
    """List contradictions.

    Args:
        tensors: The tensors of each safetensors file at the top of the model.
        index: `model.safetensors.index.json`; None where the model has none.
        config: `config.json`.

    Returns:
        Each contradiction with the name of the file or weights.
    """
    held = {name: tensor for file in tensors.values() for name, tensor in file.items()}
    return [
        *_of_files(tensors, index),
        *_of_wrappers(held),
        *_of_layers(held, config),
        *_of_head(held, config),
    ]


def _of_files(tensors: Mapping[str, Mapping[str, Tensor]], index: Mapping[str, Any] | None) -> Iterator[Problem]:
    if _SINGLE in tensors:
        return  # transformers loads this one and ignores an index
    weight_map = cast("dict[str, str]", index.get("weight_map")) if index else None
    for file in sorted(tensors):
        if shard := _SHARD.fullmatch(file):
            missing = [file for file in _siblings(file, int(shard[2])) if file not in tensors]
            if missing:
                yield Problem(missing[0], "is missing", allowed=f"{int(shard[2])} weight files")
                break
    if weight_map is None:
        yield Problem(INDEX, "is missing, so no weight file would be loaded", allowed=f"{_SINGLE}, or an index")
        return
    for file in sorted({*weight_map.values()} - set(tensors)):
        yield Problem(file, f"is missing, and {INDEX} names it")
    stems = {_stem(file) for file in weight_map.values()}
    for file in sorted(set(tensors) - {*weight_map.values()}):
        if _stem(file) in stems:
            yield Problem(file, f"is not named by {INDEX}", ", ".join(grouped(tensors[file])[:4]))
    for file, held in tensors.items():
        named = {name for name, place in weight_map.items() if place == file}
        for name in grouped(named - set(held)):
            yield Problem(name, f"is missing: {INDEX} names it, and {file} does not hold it")


def _stem(file: str) -> str:
    shard = _SHARD.fullmatch(file)
    return file[: shard.start(1)] if shard else file


def _siblings(file: str, count: int) -> list[str]:
    before, _, after = file.rpartition("-of-")
    stem, _, number = before.rpartition("-")
    return [f"{stem}-{place:0{len(number)}d}-of-{after}" for place in range(1, count + 1)]


def _of_wrappers(held: Mapping[str, Tensor]) -> Iterator[Problem]:
    for wrapper in _WRAPPERS:
        if held and all(name.startswith(wrapper) for name in held):
            what = f"begins, like every weight, with '{wrapper}', the prefix of a training wrapper"
            yield Problem(next(iter(held)), what, suggestion=next(iter(held)).removeprefix(wrapper))
            return


def _of_layers(held: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[Problem]:
    text: Any = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    declared = next((text[key] for key in _LAYER_COUNTS if isinstance(text.get(key), int)), None)
    if declared is None:
        return
    numbers: dict[str, set[int]] = {}
    for name in held:
        if found := _NUMBERED.match(name):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    if not numbers:
        return
    stack = max(numbers, key=lambda prefix: len(numbers[prefix]))
    # A config can declare any number of layers: only a bounded number is checked.
    missing = sorted(set(range(min(declared, max(numbers[stack]) + _FEW_LAYERS))) - numbers[stack])
    if missing:
        which = grouped(f"{stack}.{number}.*" for number in missing)[0]
        yield Problem(which, f"is missing: config.json declares {declared} layers", f"{len(numbers[stack])} layers")


def _of_head(held: Mapping[str, Tensor], config: Mapping[str, Any]) -> Iterator[Problem]:
    rows = config.get("vocab_size")
    if config.get("tie_word_embeddings") is not False or not isinstance(rows, int) or not _is_causal(config):
        return
    matrices = [name for name, tensor in held.items() if len(tensor.shape) == 2 and rows in tensor.shape]
    if len(matrices) == 1:
        what = "is the only weight with a row for each token, but config.json declares separate output weights"
        yield Problem(matrices[0], what, suggestion="lm_head.weight, which is missing")


def _is_causal(config: Mapping[str, Any]) -> bool:
    named: Any = config.get("architectures")
    names: Sequence[Any] = cast("list[Any]", named) if isinstance(named, list) else []
    return any("CausalLM" in str(name) or "LMHead" in str(name) for name in names)
