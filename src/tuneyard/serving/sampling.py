"""An answer's own randomness: sampling with a generator of its own, whatever else the process samples.

transformers draws from torch's one generator, which all threads share: the same seed would give other answers with
every other request. Here the last step of its own pipeline is added: after all processors, one token is drawn by the
answer's generator and every other one is ruled out. The distribution is transformers' own, and the draws of a seed are
those of plain transformers after `torch.manual_seed`.

`GenerationMixin._sample`, the loop itself, is private: transformers is pinned to one minor version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList


def seeded_decoding(seed: int, device: torch.device) -> Callable[..., Any]:
    """Make the decoding loop of one answer, as `generate(custom_generate=…)` takes it.

    Args:
        seed: Of the answer's generator.
        device: Where the model is.

    Returns:
        transformers' own loop; greedy where the configuration is, else drawing from the generator.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def decode(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        **more: Any,
    ) -> Any:
        if generation_config.do_sample:
            logits_processor.append(_Draw(generator))
        return model._sample(input_ids, logits_processor=logits_processor, generation_config=generation_config, **more)

    return decode


class _Draw(LogitsProcessor):
    """Draws one token of each distribution, and leaves nothing but it to be sampled."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take logits of shape (sequences, tokens); return such that have one token each."""
        del input_ids
        drawn = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)
