"""Models whose files contradict their config, each made from the folder of a complete model.

`BROKEN` maps a name to a function that changes a folder, and to a part of the error message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / WEIGHTS)


def save(folder: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _edited(edit: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    return lambda folder: save(folder, edit(load(folder)))


def _without(*names: str) -> Callable[[Path], None]:
    return _edited(lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names})


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def shard(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Divide the weights into three files with an index, and return the files and the index's map."""
    from safetensors.torch import save_file

    tensors = load(folder)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    weight_map = {}
    for place, file in enumerate(files):
        part = {name: tensors[name] for name in names[place::3]}
        weight_map |= dict.fromkeys(part, file)
        save_file(part, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files, weight_map


def _index_without_a_shard(folder: Path) -> None:
    files, weight_map = shard(folder)
    kept = {name: file for name, file in weight_map.items() if file != files[1]}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": kept}))


def _shard_missing(folder: Path) -> None:
    files, _ = shard(folder)
    (folder / files[2]).unlink()


def _index_missing(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).unlink()


def _index_names_more(folder: Path) -> None:
    files, weight_map = shard(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {**weight_map, "model.norm.bias": files[0]}}))


def _wider(folder: Path) -> None:
    configure(folder, intermediate_size=96)


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (_without("lm_head.weight"), "lm_head.weight"),
    "no embedding": (_without("model.embed_tokens.weight"), "model.embed_tokens.weight"),
    "no norm": (_without("model.norm.weight"), "model.norm.weight"),
    "one projection gone": (_without("model.layers.1.self_attn.q_proj.weight"), "model.layers.1.self_attn.q_proj"),
    "prefix of data parallel": (
        _edited(lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()}),
        "module.",
    ),
    "prefix of torch.compile": (
        _edited(lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}),
        "_orig_mod.",
    ),
    "another prefix": (
        _edited(lambda tensors: {f"policy.{name}": tensor for name, tensor in tensors.items()}),
        "policy.",
    ),
    "more layers declared": (lambda folder: configure(folder, num_hidden_layers=4), "model.layers.{2-3}"),
    "fewer layers declared": (lambda folder: configure(folder, num_hidden_layers=1), "model.layers.1"),
    "another width declared": (_wider, "model.layers.0.mlp"),
    "a weight too many": (
        _edited(lambda tensors: {**tensors, "model.extra.weight": tensors["model.norm.weight"].clone()}),
        "model.extra.weight",
    ),
    "index without a shard": (_index_without_a_shard, "model"),
    "shard missing": (_shard_missing, "model-00003-of-00003.safetensors"),
    "index missing": (_index_missing, "model.safetensors"),
}
"""All but the last three are seen by whoever loads the model; without torch those in `STRUCTURAL` are."""

STRUCTURAL = (
    "no head", "no embedding", "prefix of data parallel", "prefix of torch.compile", "more layers declared",
    "index without a shard", "shard missing", "index missing",
)  # fmt: skip
