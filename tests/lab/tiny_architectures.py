"""A tiny model of every causal language model architecture in transformers for which a small config can be found.

`build(name)` makes a model of some tens of thousands of random weights, or returns None. Sizes are set under every
name that configs use for them; where two contradict one another, the next variant is tried.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCABULARY = 96
MOST_PARAMETERS = 3_000_000

NOT_BUILT = frozenset(
    {
        "BltForCausalLM",
        "CohereCompassForCausalLM",
        "Emu3ForCausalLM",
        "Gemma3nForConditionalGeneration",
        "Gemma4AssistantForCausalLM",
        "Gemma4UnifiedAssistantForCausalLM",
        "Gemma4UnifiedForConditionalGeneration",
        "GotOcr2ForConditionalGeneration",
        "MllamaForCausalLM",
        "MusicgenForCausalLM",
        "MusicgenMelodyForCausalLM",
        "ReformerModelWithLMHead",
    }
)
"""Architectures without a small config: they take images or sound, or have settings that smaller numbers don't fit."""

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "sliding_window": 6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_BERT: dict[str, Any] = {name: size for name, size in _TEXT.items() if name != "num_key_value_heads"} | {
    "is_decoder": True
}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_BOTH = {"layer_types": ["sliding_attention", "full_attention"]}
_PER_LAYER = {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 0}
_GEMMA4 = {**_TEXT, **_BOTH, **_PER_LAYER, "global_head_dim": 8}

_OWN: dict[str, dict[str, Any]] = {
    "DbrxForCausalLM": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 128,
        "vocab_size": VOCABULARY,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": _TEXT | _BOTH,
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
    },
    "Gemma3nForCausalLM": _TEXT | _BOTH | _PER_LAYER | {"laurel_rank": 8, "activation_sparsity_pattern": [0.0, 0.0]},
    "Gemma4ForCausalLM": _GEMMA4,
    "Gemma4ForConditionalGeneration": {"text_config": _GEMMA4, "vision_config": _VISION, "audio_config": None},
    "GitForCausalLM": _BERT | {"vision_config": _VISION},
    "Lfm2MoeForCausalLM": _TEXT
    | {
        "layer_types": ["conv", "full_attention"],
        "num_dense_layers": 1,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    },
    "Phi4MultimodalForCausalLM": _TEXT
    | {
        "vision_config": _VISION,
        "audio_config": {"hidden_size": 32, "intermediate_size": 48, "num_blocks": 1, "num_attention_heads": 2},
    },
    "ProphetNetForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_decoder_layers": 2,
        "num_decoder_attention_heads": 4,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 128,
        "is_decoder": True,
        "is_encoder_decoder": False,
    },
    "RoCBertForCausalLM": _BERT
    | {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 20,
        "shape_embed_dim": 8,
        "shape_vocab_size": 20,
    },
    "XLNetLMHeadModel": {"vocab_size": VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "XmodForCausalLM": _BERT | {"languages": ["en_XX"], "default_language": "en_XX"},
    "xLSTMForCausalLM": {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "embedding_dim": 64,
        "num_heads": 2,
        "num_blocks": 2,
    },
}
"""Configs of those whose sizes contradict each other, or that are made of several."""

_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "hidden_dim", "embedding_size"), 32),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "n_inner",
            "ffn_hidden_size",
            "decoder_ffn_dim",
            "encoder_ffn_dim",
            "ffn_size",
        ),
        48,
    ),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(
        ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers", "num_blocks"), 2
    ),
    **dict.fromkeys(
        ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads"),
        4,
    ),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "index_head_dim"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "index_n_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    "vocab_size": VOCABULARY,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "qk_rope_head_dim": 8,
    "rotary_dim": 4,
    "num_experts_per_tok": 2,
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads", "linear_num_key_heads"), 4),
    "mamba_d_ssm": 64,
    "mamba_d_state": 8,
    "state_size": 8,
    "sliding_window": 6,
    "attention_window": 6,
    "chunk_size": 8,
    "mamba_chunk_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_WAYS: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": None},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 4, "qk_rope_head_dim": 8, "head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    {"num_key_value_heads": 4, "head_dim": 16, "qk_head_dim": 16},
    {"head_dim": 8, "num_heads": 8, "expand": 2, "hidden_size": 32, "n_groups": 1},
    {"num_experts_per_tok": 1},
    {"num_hidden_layers": 3},
    {"num_hidden_layers": 4},
    {"num_hidden_layers": 6},
    {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    {"is_decoder": True},
    {"qk_dim_factor": 0.5, "num_heads": 2, "hidden_size": 64},
    {"num_attention_heads": 8, "attention_hidden_size": 64, "mamba_d_state": 16},
)


def kinds() -> dict[str, tuple[Any, list[Any]]]:
    """Return every model class by name, with its config classes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    found: dict[str, tuple[Any, list[Any]]] = {}
    for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        one = model[0] if isinstance(model, tuple) else model
        found.setdefault(one.__name__, (one, []))[1].append(config)
    return dict(sorted(found.items()))


def build(name: str, **settings: Any) -> PreTrainedModel | None:
    """Make a model of a kind with fixed random weights, in evaluation mode; None if no small config is found."""
    import torch

    model_class, config_classes = kinds()[name]
    configs = (
        config
        for config_class in config_classes
        for config in (*_own(name, config_class, settings), *(() if name in _OWN else _configs(config_class, settings)))
    )
    for config in configs:
        try:
            with torch.device("meta"):
                size = sum(weight.numel() for weight in model_class(copy.deepcopy(config)).parameters())
            if size > MOST_PARAMETERS:
                continue
            torch.manual_seed(0)
            model = model_class(config).eval()
            with torch.no_grad():
                model(input_ids=torch.arange(5, 16)[None], use_cache=False)
        except Exception:
            continue
        return model
    return None


def _own(name: str, config_class: Any, settings: dict[str, Any]) -> Iterator[Any]:
    if name in _OWN:
        yield config_class(**copy.deepcopy(_OWN[name]), **settings)


def _configs(config_class: Any, settings: dict[str, Any]) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            plain = config_class()
        except Exception:
            return
        sizes = {name: size for name, size in _SIZES.items() if _has(plain, name)}
        for way in _WAYS:
            for layers in _layers(plain):
                keys = {**sizes, **layers, **{name: value for name, value in way.items() if _has(plain, name)}}
                keys = {name: value for name, value in keys.items() if value is not None}
                try:
                    yield config_class(**{**keys, **settings})
                except Exception:
                    continue


def _has(plain: Any, name: str) -> bool:
    try:
        return hasattr(plain, name)
    except Exception:  # a setting that differs from layer to layer
        return True


def _layers(plain: Any) -> Iterator[dict[str, Any]]:
    """Return settings for few layers of every type."""
    yield {}
    for name in ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern", "mlp_layer_types"):
        types = getattr(plain, name, None)
        if isinstance(types, list | str) and types:
            distinct = list(dict.fromkeys(types))
            few = "".join(distinct) if isinstance(types, str) else distinct
            if len(few) == 1:
                few = few * 2
            yield {name: few, "num_hidden_layers": len(few)}
            yield {name: few + few, "num_hidden_layers": 2 * len(few)}
