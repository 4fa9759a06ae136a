"""What an adapter adds and trains, counted by PEFT's rules for each kind that is trained; exact but for its `notes`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.estimate.model import ModelFacts
from tuneyard.train.targets import ALL_LINEAR, WHERE, adapted, names, refuse_unmatched
from tuneyard.values import FinetuneValues

DEFAULT_TARGETS = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "qwen3"), ("q_proj", "v_proj")),
    "gpt2": ("c_attn",),
    "gpt_neox": ("query_key_value",),
}
"""Where PEFT puts LoRA when `target_modules` is not named, for the model types that were compared with it."""
IA3_TARGETS = {
    **dict.fromkeys(("llama", "mistral"), (("k_proj", "v_proj", "down_proj"), ("down_proj",))),
    **dict.fromkeys(("qwen2", "qwen3"), (("q_proj", "v_proj", "down_proj"), ("down_proj",))),
}
"""The same for IA3: the modules, and those of them whose input is scaled."""
_RANKS = {"LORA": 8, "VERA": 256, "IA3": 0}
_UNCOUNTED = ("target_parameters", "trainable_token_indices", "layer_replication", "megatron_config")


@dataclass(frozen=True)
class Adapter:
    """What is trained.

    Attributes:
        added: Parameters that the adapter adds to the model.
        trained: Parameters that are trained.
        ranks: The rank on each adapted module, 0 where it has none; empty where no module is adapted.
        largest: Elements of the largest trained tensor.
        dora: Whether weights are decomposed.
        notes: What was not counted.
        prompt: Virtual tokens before each conversation.
    """

    added: int
    trained: int
    ranks: Mapping[str, int]
    largest: int
    dora: bool = False
    notes: tuple[str, ...] = ()
    prompt: int = 0

    @property
    def frozen(self) -> bool:
        """Whether the base's weights are left as they are."""
        return bool(self.ranks or self.prompt)


def count_trained(model: ModelFacts, values: FinetuneValues) -> Adapter:
    """Count what is trained.

    Args:
        model: The base model.
        values: The resolved values.

    Raises:
        InvalidValuesError: Where an entry of `target_modules` matches nothing, or PEFT's choice is not known.
    """
    conf = values.finetuning_config.peft_conf
    if conf.peft_type == "NO_PEFT":
        largest = max(math.prod(shape) for shape in model.tensors.values())
        return Adapter(0, model.parameters, {}, largest)
    if conf.peft_type == "PROMPT_TUNING":
        length = int(conf.peft_kwargs["num_virtual_tokens"])
        size = length * model.hidden
        return Adapter(size, size, {}, size, prompt=length)
    kwargs: dict[str, Any] = {"r": _RANKS[conf.peft_type], **conf.peft_kwargs}
    _fill_targets(model, conf.peft_type, kwargs)
    linear = [name for name in model.modules if not model.is_embedding(name)]
    refuse_unmatched(model.all_modules(), kwargs, offered=linear)
    if kwargs["target_modules"] == ALL_LINEAR:
        inner = [name for name in linear if not model.is_head(name)]
        chosen = adapted(inner, {**kwargs, "target_modules": ".*"})
    else:
        chosen = adapted(list(model.modules), kwargs)
    ranks = {name: _rank(name, kwargs) for name in chosen}
    if conf.peft_type == "LORA":
        added = sum(_added(model, name, rank, kwargs) for name, rank in ranks.items())
        largest = max(rank * max(model.modules[name]) for name, rank in ranks.items())
    else:
        vectors = [_vectors(model, name, conf.peft_type, kwargs) for name in chosen]
        added, largest = sum(vectors), max(vectors)
    saved = [name for name in model.tensors if _is_saved(name, kwargs)]
    copies = sum(math.prod(model.tensors[name]) for name in saved)
    largest = max([largest, *(math.prod(model.tensors[name]) for name in saved)])
    trained = added + copies + _biases(model, chosen, kwargs)
    notes = tuple(f"{name} is not counted" for name in _UNCOUNTED if kwargs.get(name))
    return Adapter(added + copies, trained, ranks, largest, bool(kwargs.get("use_dora")), notes)


def _fill_targets(model: ModelFacts, peft_type: str, kwargs: dict[str, Any]) -> None:
    """Name the modules that PEFT chooses where none are named."""
    if kwargs.get("target_modules") is not None:
        return
    kind = str(model.config.get("model_type"))
    if peft_type == "IA3" and kind in IA3_TARGETS:
        kwargs["target_modules"], kwargs["feedforward_modules"] = map(list, IA3_TARGETS[kind])
    elif peft_type != "IA3" and kind in DEFAULT_TARGETS:
        kwargs["target_modules"] = list(DEFAULT_TARGETS[kind])
    else:
        what = f"is not named, and what PEFT adapts in a {kind} is not known here"
        problem = Problem(f"{WHERE}.target_modules", what)
        raise InvalidValuesError(f"{problem}.", problems=[problem], hint=f"--set {WHERE}.target_modules={ALL_LINEAR}")


def _vectors(model: ModelFacts, name: str, peft_type: str, kwargs: Mapping[str, Any]) -> int:
    """Numbers that VeRA or IA3 trains on a module; VeRA's shared random matrices are no parameters."""
    features_in, features_out = model.modules[name]
    if peft_type == "VERA":
        return features_out + int(kwargs["r"])
    return features_in if names(kwargs["feedforward_modules"], name) else features_out


def _rank(name: str, kwargs: Mapping[str, Any]) -> int:
    for pattern, rank in (kwargs.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return int(rank)
    return int(kwargs["r"])


def _added(model: ModelFacts, name: str, rank: int, kwargs: Mapping[str, Any]) -> int:
    features_in, features_out = model.modules[name]
    count = rank * (features_in + features_out)
    if kwargs.get("use_dora"):
        count += features_out
    if kwargs.get("lora_bias"):
        count += features_out
    return count


def _is_saved(tensor: str, kwargs: Mapping[str, Any]) -> bool:
    # PEFT compares the ends of names as text: `norm` also means `input_layernorm`.
    parts = tensor.split(".")[:-1]
    around = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(module.endswith(name) for module in around for name in kwargs.get("modules_to_save") or ())


def _biases(model: ModelFacts, chosen: list[str], kwargs: Mapping[str, Any]) -> int:
    asked = kwargs.get("bias") or "none"
    if asked == "none":
        return 0
    names = [name for name in model.tensors if name.endswith(".bias")]
    if asked == "lora_only":
        names = [name for name in names if name.rpartition(".")[0] in chosen]
    return sum(math.prod(model.tensors[name]) for name in names)
