"""Attention that keeps the conversations of a flat row apart, without a mask over the whole row.

Each conversation attends to itself alone by causal scaled dot product attention, so the cost is the sum of the
squares of their lengths, not the square of the sum, and no T x T mask is built. The result is the one of a batch of
single conversations. Registered with transformers' AttentionInterface, so no model code is touched.

Not for generation or padded batches: `serve` uses the library's own implementations.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

PER_CONVERSATION = "tuneyard_per_conversation"


def per_conversation_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each conversation of a flat row; the signature is transformers' AttentionInterface.

    Args:
        module: The attention layer, for its mode (training or not).
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size).
        value: (1, key heads, T, head size).
        attention_mask: Not used: the conversations' bounds say all there is to mask.
        scaling: Factor of the scores; None for 1/sqrt(head size).
        dropout: Dropout of the attention weights while training.
        sliding_window: How far back a token sees, for models that limit it.
        cu_seq_lens_q: (D + 1), the bounds of the conversations; None for one conversation.
        kwargs: What a model passes further; the soft cap and sinks that would change the scores are refused.

    Returns:
        The attended values (1, T, heads, head size), and None for the weights.

    Raises:
        NotImplementedError: For soft-capped scores and attention sinks, which this attention doesn't compute.
    """
    for name in ("softcap", "s_aux"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"{PER_CONVERSATION} does not compute {name}; use attn_implementation eager")
    bounds = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    grouped = query.shape[1] != key.shape[1]
    parts: list[torch.Tensor] = []
    for start, end in pairwise(bounds):
        length = end - start
        windowed = sliding_window is not None and length > sliding_window
        parts.append(
            scaled_dot_product_attention(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                attn_mask=_window_mask(length, sliding_window or 0, query.device) if windowed else None,
                is_causal=not windowed,
                scale=scaling,
                dropout_p=dropout if module.training else 0.0,
                enable_gqa=grouped,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length), true where a token may look: itself and the `window - 1` before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril() & seen.triu(1 - window)


AttentionInterface.register(PER_CONVERSATION, per_conversation_attention)
