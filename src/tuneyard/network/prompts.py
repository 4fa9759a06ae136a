"""Prompt tuning over flat rows: the trained virtual tokens before each conversation of a row.

PEFT's own forward pass puts them once before a whole row and renumbers positions, which would join conversations that
`flatten` keeps apart.

Shape letters: T tokens of the row, K trained targets, D conversations of the row, P virtual tokens.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from peft import PeftModelForCausalLM


class FlatPromptModel(PeftModelForCausalLM):
    """A model with a trained prompt, whose forward pass takes what `flatten` makes."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - it gets what `forms.Forward` gives
        self,
        input_ids: torch.Tensor,
        logits_to_keep: torch.Tensor | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Compute the logits of a row, each of its conversations after the prompt.

        Args:
            input_ids: (1, T).
            logits_to_keep: (K), positions in the row without prompts; None for all of them.
            cu_seq_lens_q: (D + 1), the bounds of the conversations; None where the row is one.
            position_ids: (1, T), those of each conversation from 0; given where the bounds are.
            kwargs: Further arguments of the model; bounds and lengths are recomputed.

        Returns:
            The base model's outputs, logits (1, K, vocabulary).
        """
        bounds = [0, input_ids.shape[1]] if cu_seq_lens_q is None else cu_seq_lens_q.tolist()
        prompt_1PH = self.get_prompt(batch_size=1)
        length = prompt_1PH.shape[1]
        embed: Any = self.word_embeddings
        embeddings_1TH: torch.Tensor = embed(input_ids)
        prompt_1PH = prompt_1PH.to(embeddings_1TH.dtype)
        parts = [part for start, end in pairwise(bounds) for part in (prompt_1PH, embeddings_1TH[:, start:end])]
        keep_T = torch.arange(input_ids.shape[1], device=input_ids.device)
        keep_K = keep_T if logits_to_keep is None else logits_to_keep
        ends = torch.tensor(bounds[1:], device=keep_K.device, dtype=keep_K.dtype)
        keep_K = keep_K + length * (torch.bucketize(keep_K, ends, right=True) + 1)
        if cu_seq_lens_q is not None:
            kwargs |= _bounds_after_prompts(cu_seq_lens_q, position_ids, kwargs, length)
        if logits_to_keep is not None:
            return self.base_model(inputs_embeds=torch.cat(parts, dim=1), logits_to_keep=keep_K, **kwargs)
        outputs = self.base_model(inputs_embeds=torch.cat(parts, dim=1), **kwargs)
        outputs.logits = outputs.logits[:, keep_K]
        return outputs


def _bounds_after_prompts(
    bounds: torch.Tensor, position_ids: torch.Tensor | None, kwargs: dict[str, Any], length: int
) -> dict[str, Any]:
    """Recompute bounds, positions and the longest length for conversations that begin with `length` more tokens."""
    assert position_ids is not None, "flatten returns both"
    edges = bounds.tolist()
    before = torch.arange(length, device=position_ids.device)[None]
    positions = [part for start, end in pairwise(edges) for part in (before, position_ids[:, start:end] + length)]
    bounds = bounds + length * torch.arange(len(edges), device=bounds.device, dtype=bounds.dtype)
    longest = kwargs["max_length_q"] + length
    return {
        "position_ids": torch.cat(positions, dim=1),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }
