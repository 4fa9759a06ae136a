"""Prompt tuning over flat rows: the trained virtual tokens before each conversation of a row.

PEFT's own forward pass puts them once before a whole row and counts positions anew, which would join conversations that
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

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - a flat row is all that it ever gets
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        cu_seq_lens_q: torch.Tensor,
        logits_to_keep: torch.Tensor,
        **kwargs: Any,
    ) -> Any:
        """Compute the logits of a row, each of its conversations after the prompt.

        Args:
            input_ids: (1, T).
            position_ids: (1, T), those of each conversation from 0.
            cu_seq_lens_q: (D + 1), the bounds of the conversations.
            logits_to_keep: (K), positions in the row without prompts.
            kwargs: Further arguments of the model; bounds and lengths are made anew.

        Returns:
            The base model's outputs, logits (1, K, vocabulary).
        """
        longest = kwargs.pop("max_length_q", None)
        for name in ("cu_seq_lens_k", "max_length_k"):
            kwargs.pop(name, None)
        prompt_1PH = self.get_prompt(batch_size=1)
        length = prompt_1PH.shape[1]
        embed: Any = self.word_embeddings
        embeddings_1TH: torch.Tensor = embed(input_ids)
        prompt_1PH = prompt_1PH.to(embeddings_1TH.dtype)
        bounds = cu_seq_lens_q.tolist()
        parts: list[torch.Tensor] = []
        for start, end in pairwise(bounds):
            parts += [prompt_1PH, embeddings_1TH[:, start:end]]
        before = torch.arange(length, device=position_ids.device)[None]
        positions = [part for start, end in pairwise(bounds) for part in (before, position_ids[:, start:end] + length)]
        added = length * torch.arange(len(bounds), device=cu_seq_lens_q.device, dtype=cu_seq_lens_q.dtype)
        bounds_now = cu_seq_lens_q + added
        document_K = torch.bucketize(logits_to_keep, cu_seq_lens_q[1:].to(logits_to_keep.dtype), right=True)
        if longest is not None:
            kwargs |= {"max_length_q": longest + length, "max_length_k": longest + length}
        return self.base_model(
            inputs_embeds=torch.cat(parts, dim=1),
            position_ids=torch.cat(positions, dim=1),
            cu_seq_lens_q=bounds_now,
            cu_seq_lens_k=bounds_now,
            logits_to_keep=logits_to_keep + length * (document_K + 1),
            **kwargs,
        )
