"""How far apart two models are on the same texts: logits, Kullback-Leibler divergence per token, greedy choices.

Applies no criterion; `merge` decides what is close enough. Shape letters: T tokens of a text, C positions of it that
are compared (the last ones), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

SMALLEST = 1e-12
"""A divergence per token, in nats, below which two predictions are the same: rounding in float64."""


@dataclass(frozen=True)
class Text:
    """Token ids that models compute logits for.

    Attributes:
        ids: The T tokens.
        positions: C, how many of the last positions are compared.
    """

    ids: Sequence[int]
    positions: int


@dataclass(frozen=True)
class Distance:
    """How far a model is from a reference, over all compared positions of some texts.

    Attributes:
        kl: Mean KL(reference || model) per token, in nats (Kullback and Leibler 1951).
        kl_error: The standard error of that mean.
        kl_typical: The geometric mean of the same: a few tokens in a thousand make up half of `kl`.
        choices: How many positions have another greedy token.
        positions: How many positions were compared.
    """

    kl: float
    kl_error: float
    kl_typical: float
    choices: int
    positions: int


@torch.no_grad()
def read_logits(model: Any, texts: Sequence[Text]) -> list[torch.Tensor]:
    """Run a model over texts.

    Args:
        model: A causal language model, in evaluation mode.
        texts: Its inputs.

    Returns:
        For each text the logits that predict what follows its last C positions, `logits_CV`, float32.
    """
    return [model(input_ids=torch.tensor([list(text.ids)])).logits[0, -text.positions :].float() for text in texts]


def distance(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Distance:
    """Compare what two models predict.

    Args:
        reference: The result of `read_logits` for the reference.
        other: The same of another model, on the same texts.
    """
    divergences = [_divergence(one, two) for one, two in zip(reference, other, strict=True)]
    positions = sum(len(one) for one in divergences)
    choices = sum(int((one.argmax(-1) != two.argmax(-1)).sum()) for one, two in zip(reference, other, strict=True))
    each = torch.cat(divergences)
    typical = each.clamp(min=SMALLEST).log().mean().exp()
    error = each.std(correction=0) / math.sqrt(positions)
    return Distance(float(each.mean()), float(error), float(typical), choices, positions)


def largest_difference(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of a logit, relative to the largest logit of its text."""
    pairs = zip(reference, other, strict=True)
    ratios = [float((one - two).abs().max() / one.abs().max().clamp(min=1e-6)) for one, two in pairs]
    return max(ratios, default=0.0)


def other_choices(reference: Sequence[torch.Tensor], other: Sequence[torch.Tensor], *, tie: float) -> int:
    """Count positions where the other model prefers another token by more than a tie.

    Args:
        reference: The result of `read_logits` for the reference.
        other: The same of another model, on the same texts.
        tie: The largest difference of two logits of the reference at which neither is preferred, relative to its
            largest logit.
    """
    count = 0
    for one, two in zip(reference, other, strict=True):
        mine, theirs = one.argmax(-1, keepdim=True), two.argmax(-1, keepdim=True)
        gap = one.gather(-1, mine) - one.gather(-1, theirs)
        count += int((gap > tie * one.abs().max()).sum())
    return count


def _divergence(reference_CV: torch.Tensor, other_CV: torch.Tensor) -> torch.Tensor:
    # in float64: divergences of a cast can be as small as float32's own rounding
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (reference_CV, other_CV))
    return (log_p.exp() * (log_p - log_q)).sum(-1)
