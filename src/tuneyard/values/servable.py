"""Which adapters vLLM serves unmerged, and which can be merged: known before anything is trained.

The list is that of vLLM 0.32 (`vllm/lora/peft_helper.py`). Tuneyard's own server, on transformers'
parts, serves them all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNMERGEABLE = ("PROMPT_TUNING",)
"""Adapters that change no weight of the base, so that there is nothing to merge."""

LARGEST_RANK = 512
"""The largest `max_lora_rank` of vLLM."""

_REFUSED = {
    "modules_to_save": "fully trained modules",
    "use_dora": "decomposed weights (DoRA)",
    "lora_bias": "its own biases",
    "alora_invocation_tokens": "invocation tokens (aLoRA)",
    "layer_replication": "replicated layers",
    "use_bdlora": "block-diagonal factors",
    "use_qalora": "quantized groups (QALoRA)",
    "target_parameters": "adapted parameters outside of modules",
    "trainable_token_indices": "trained tokens",
}
_INIT_LEAVES_BASE = ("true", "false", "gaussian", "eva", "orthogonal", "mica", "lora_ga")


def largest_rank(config: Mapping[str, Any]) -> int:
    """Return the largest rank of a LoRA adapter's modules.

    Args:
        config: `peft_kwargs`, or the resulting `adapter_config.json`.
    """
    return max(int(config.get("r") or 8), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def vllm_obstacles(peft_type: str, config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the settings of an adapter that vLLM can't serve.

    Args:
        peft_type: PEFT's name of the method.
        config: `peft_kwargs`, or the resulting `adapter_config.json`.

    Returns:
        (key, why vLLM does not support it, the value) for each; empty if vLLM serves the adapter.
    """
    if peft_type != "LORA":
        return [("peft_type", "is not LoRA, and vLLM serves no other adapter", peft_type)]
    found = [
        (name, f"adds {what}, which vLLM does not support in adapters", str(config[name]))
        for name, what in _REFUSED.items()
        if config.get(name)
    ]
    if (bias := config.get("bias") or "none") != "none":
        found.append(("bias", "trains biases, which vLLM does not support in adapters", str(bias)))
    begun = config.get("init_lora_weights")
    if begun is not None and str(begun).lower() not in _INIT_LEAVES_BASE:
        found.append(("init_lora_weights", "changes the base's weights, which vLLM does not repeat", str(begun)))
    if (rank := largest_rank(config)) > LARGEST_RANK:
        found.append(("r", f"is more than vLLM's largest rank of {LARGEST_RANK}", str(rank)))
    return found


def unserved_by_vllm(peft_type: str, kwargs: Mapping[str, Any]) -> str | None:
    """Return why vLLM will not serve an adapter, and what to do; None if it will.

    Args:
        peft_type: `peft_conf.peft_type`, NO_PEFT included.
        kwargs: `peft_conf.peft_kwargs`.
    """
    obstacles = [] if peft_type == "NO_PEFT" else vllm_obstacles(peft_type, kwargs)
    if not obstacles:
        return None
    why = "; ".join(f"{key} ({value}) {what}" for key, what, value in obstacles)
    if peft_type in UNMERGEABLE:
        way = "it can't be merged either; Tuneyard's own server (an environment without vLLM) serves it"
    else:
        way = "--set mergeAdapter=true also publishes checkpoint-final-merged, which vLLM serves"
    return f"vLLM can't serve this adapter: {why}; {way}"
