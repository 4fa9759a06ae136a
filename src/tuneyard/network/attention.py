"""Attention that keeps the conversations of a flat row apart, without a mask over the whole row.

Each conversation attends to itself alone by causal scaled dot product attention, so the cost is the sum of the
squares of their lengths, not the square of the sum, and no T x T mask is built. The result is the one of a batch of
single conversations. Registered with transformers' AttentionInterface, so no model code is touched.

Not for generation or padded batches: `serving` uses the library's own implementations.
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
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each conversation of a flat row; the signature is transformers' AttentionInterface.

    Args:
        module: The attention layer, for its mode (training or not).
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size).
        value: (1, key heads, T, head size).
        attention_mask: Not used: the conversations' bounds define the mask.
        scaling: Factor of the scores; None for 1/sqrt(head size).
        dropout: Dropout of the attention weights while training.
        sliding_window: How far back a token sees, for models that limit it.
        softcap: Bound that scores approach through a tanh (Gemma 2, arxiv.org/abs/2408.00118, section 2).
        s_aux: (heads), a learnt score in addition to those of the keys, with a part of the softmax and no value
            (the sinks of gpt-oss, arxiv.org/abs/2508.10925, section 2.1).
        cu_seq_lens_q: (D + 1), the bounds of the conversations; None for one conversation.
        kwargs: Further arguments of a model. A check of the model before training shows that they have no effect
            (`isolation`).

    Returns:
        The attended values (1, T, heads, head size), and None for the weights.
    """
    del attention_mask, kwargs
    bounds = [0, query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
    dropped = dropout if module.training else 0.0
    parts: list[torch.Tensor] = []
    for start, end in pairwise(bounds):
        parts.append(
            _attend(
                query[:, :, start:end],
                key[:, :, start:end],
                value[:, :, start:end],
                window=sliding_window if sliding_window is not None and end - start > sliding_window else None,
                scaling=scaling,
                dropout=dropped,
                softcap=softcap,
                sinks=s_aux,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    window: int | None,
    scaling: float | None,
    dropout: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend causally within one conversation; shapes as above, T the conversation's tokens."""
    length = query.shape[2]
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if window is None else _causal_mask(length, window, query.device),
            is_causal=window is None,
            scale=scaling,
            dropout_p=dropout,
            enable_gqa=query.shape[1] != key.shape[1],
        )
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~_causal_mask(length, window or length, query.device), float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(1, -1, length, 1).to(scores.dtype)], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)[..., :length]
    return torch.nn.functional.dropout(weights, p=dropout) @ value


def _causal_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """(length, length), true where a token attends: itself and the `window - 1` before it."""
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril() & seen.triu(1 - window)


AttentionInterface.register(PER_CONVERSATION, per_conversation_attention)
