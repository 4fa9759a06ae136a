"""Direct preference optimization (arxiv.org/abs/2305.18290): pairs as flat rows, their losses, the reference.

The reference is the base model as delivered. Its log-probabilities of each answer are computed once, before any adapter
is added and any step is done, one pair at a time: so they depend on nothing that a run, a resume or the number of
processes changes, and no second model is held during training.

Shape letters: T tokens of the row, K trained targets, N pairs of the row; the last axis 2 is (chosen, rejected).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import numpy as np
import torch
from torch.nn.functional import logsigmoid
from torch.utils.data import Dataset

from tuneyard.network import IGNORED, EncodedRows, Forward, Row, flatten, moved
from tuneyard.values import DpoArgs

_Losses = Callable[[torch.Tensor, torch.Tensor, DpoArgs], torch.Tensor]


class Pair(TypedDict):
    """A better and a worse answer to one prompt, and the reference's log-probabilities of the two."""

    chosen: Row
    rejected: Row
    reference: np.ndarray[Any, Any]


class PairedRows(Dataset[Pair]):
    """Encoded rows two by two: the chosen answer, then the rejected one.

    Args:
        rows: Twice as many rows as pairs.
        reference: (pairs, 2), the reference's log-probabilities; zeros until they are known.
    """

    def __init__(self, rows: EncodedRows, reference: np.ndarray[Any, Any] | None = None) -> None:
        assert len(rows) % 2 == 0, "rows.py writes both answers of a preference or neither"
        self.rows = rows
        self.reference = np.zeros((len(self), 2), np.float32) if reference is None else reference

    def __len__(self) -> int:
        return len(self.rows) // 2

    def __getitem__(self, index: int) -> Pair:
        chosen, rejected = self.rows[2 * index], self.rows[2 * index + 1]
        return Pair(chosen=chosen, rejected=rejected, reference=self.reference[index])

    def place(self, index: int) -> str:
        """Return the file and line of a pair."""
        return self.rows.place(2 * index)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each pair."""
        single = self.rows.lengths
        return [chosen + rejected for chosen, rejected in zip(single[::2], single[1::2], strict=True)]

    @property
    def trained_tokens(self) -> int:
        """Tokens of all answers."""
        return self.rows.trained_tokens


def flatten_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Make one row of several pairs, for `DPOTrainer.compute_loss`.

    Args:
        pairs: The pairs of a micro-batch; none for the empty share of a short step.

    Returns:
        What `flatten` makes of all their answers, with `targets` (K), the tokens to predict; `answers` (K), which of
        the 2N answers each belongs to; `reference` (N, 2); and `labels` and `shift_labels` (1, N), by which the Trainer
        counts the pairs of a step.
    """
    answers = [answer for pair in pairs for answer in (pair["chosen"], pair["rejected"])]
    row = flatten(answers)
    targets_K, bounds = row.pop("labels")[0], row["cu_seq_lens_q"].long()
    count_1N = torch.zeros(1, len(pairs), dtype=torch.long) if pairs else torch.full((1, 1), IGNORED)
    reference = [pair["reference"] for pair in pairs]
    return {
        **row,
        "targets": targets_K,
        "answers": torch.bucketize(row["logits_to_keep"] + 1, bounds[1:], right=True),
        "reference": torch.from_numpy(np.stack(reference)) if reference else torch.zeros(0, 2),
        "labels": count_1N,
        "shift_labels": count_1N,
    }


def answer_log_probs(
    logits_KV: torch.Tensor, targets_K: torch.Tensor, answers_K: torch.Tensor, pairs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the log-probabilities of each answer's tokens.

    Args:
        logits_KV: Logits at the targets.
        targets_K: Token ids.
        answers_K: Which of the answers each target belongs to.
        pairs: How many pairs there are.

    Returns:
        The sums and the numbers of tokens, both (N, 2).
    """
    of_token_K = torch.log_softmax(logits_KV.float(), dim=-1).gather(-1, targets_K[:, None])[:, 0]
    zeros = of_token_K.new_zeros(2 * pairs)
    sums = zeros.index_add(0, answers_K, of_token_K)
    lengths = zeros.index_add(0, answers_K, torch.ones_like(of_token_K))
    return sums.view(pairs, 2), lengths.view(pairs, 2)


def preference_losses(scores_N2: torch.Tensor, lengths_N2: torch.Tensor, args: DpoArgs) -> torch.Tensor:
    """Compute the loss of each pair, the weighted sum of the configured losses.

    Args:
        scores_N2: How much more likely each answer is than under the reference, as the logarithm of the ratio.
        lengths_N2: Tokens of each answer.
        args: `loss_type`, `loss_weights`, `beta` and `label_smoothing`.

    Returns:
        (N).
    """
    names = [args.loss_type] if isinstance(args.loss_type, str) else args.loss_type
    weights = args.loss_weights or [1.0] * len(names)
    losses = [weight * LOSSES[name](scores_N2, lengths_N2, args) for name, weight in zip(names, weights, strict=True)]
    return torch.stack(losses).sum(0)


def _margin(scores_N2: torch.Tensor) -> torch.Tensor:
    return scores_N2[:, 0] - scores_N2[:, 1]


def _sigmoid(scores_N2: torch.Tensor, lengths_N2: torch.Tensor, args: DpoArgs) -> torch.Tensor:
    """Equation 7 of the paper; with label smoothing the conservative form (ericmitchell.ai/cdpo.pdf)."""
    del lengths_N2
    margin, smoothing = args.beta * _margin(scores_N2), args.label_smoothing
    return -(1 - smoothing) * logsigmoid(margin) - smoothing * logsigmoid(-margin)


def _hinge(scores_N2: torch.Tensor, lengths_N2: torch.Tensor, args: DpoArgs) -> torch.Tensor:
    """SLiC's loss (arxiv.org/abs/2305.10425)."""
    del lengths_N2
    return torch.relu(1 - args.beta * _margin(scores_N2))


def _ipo(scores_N2: torch.Tensor, lengths_N2: torch.Tensor, args: DpoArgs) -> torch.Tensor:
    """Equation 17 of arxiv.org/abs/2310.12036, over the mean of each answer's tokens as TRL has it."""
    return (_margin(scores_N2 / lengths_N2.clamp(min=1)) - 1 / (2 * args.beta)) ** 2


def _robust(scores_N2: torch.Tensor, lengths_N2: torch.Tensor, args: DpoArgs) -> torch.Tensor:
    """Unbiased under flipped preferences (arxiv.org/abs/2403.00409)."""
    del lengths_N2
    margin, flipped = args.beta * _margin(scores_N2), args.label_smoothing
    return (-(1 - flipped) * logsigmoid(margin) + flipped * logsigmoid(-margin)) / (1 - 2 * flipped)


LOSSES: Mapping[str, _Losses] = {"sigmoid": _sigmoid, "hinge": _hinge, "ipo": _ipo, "robust": _robust}


@torch.no_grad()
def reference_log_probs(
    model: torch.nn.Module,
    pairs: PairedRows,
    indices: Sequence[int],
    *,
    forward: Forward,
    autocast: torch.dtype | None,
    advance: Callable[[int], Any],
) -> Iterator[tuple[int, list[float]]]:
    """Compute the base model's log-probabilities of the answers of some pairs.

    Args:
        model: The base model, where it computes.
        pairs: All pairs.
        indices: Those that this process takes.
        forward: Runs rows through it.
        autocast: What steps will be computed in where that is not the weights' own type.
        advance: Called with 1 for each pair.

    Yields:
        Each index with the log-probabilities of its chosen and its rejected answer.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    for index in indices:
        inputs = moved(flatten_pairs([pairs[index]]), device)
        context: AbstractContextManager[Any] = torch.autocast(device.type, autocast) if autocast else nullcontext()
        with context:
            scores = forward(model, inputs)
        sums_12, _ = answer_log_probs(scores.logits_KV, inputs["targets"], inputs["answers"], 1)
        advance(1)
        yield index, sums_12[0].tolist()
    model.train(was_training)
