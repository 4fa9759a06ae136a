"""NEFTune (arxiv.org/abs/2310.05914): uniform noise on the embeddings of what is trained on.

The paper's noise has a magnitude of alpha / sqrt(L d) for a sequence of L tokens and embeddings of width d. The one of
transformers takes the row's length for L, and would shrink with the number of conversations in a row; here each has the
noise that it has alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch


class EmbeddingNoise:
    """Adds noise to the output of a model's input embeddings while it is trained.

    Args:
        model: The model, with an adapter or without.
        alpha: `training_args.neftune_noise_alpha`.

    Attributes:
        bounds: (D + 1), where the conversations of the row that is about to be computed start and end; None where each
            goes through by itself.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self.alpha = alpha
        self.bounds: torch.Tensor | None = None
        model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, module: torch.nn.Module, inputs: Any, embeddings_1TH: torch.Tensor) -> torch.Tensor:
        del inputs
        if not module.training:
            return embeddings_1TH
        _, length, width = embeddings_1TH.shape
        bounds = [0, length] if self.bounds is None else self.bounds.tolist()
        lengths_T = torch.cat([torch.full((end - start,), float(end - start)) for start, end in pairwise(bounds)])
        magnitude_1T1 = (self.alpha / (lengths_T * width).sqrt())[None, :, None].to(embeddings_1TH)
        return embeddings_1TH + torch.empty_like(embeddings_1TH).uniform_(-1, 1) * magnitude_1T1
