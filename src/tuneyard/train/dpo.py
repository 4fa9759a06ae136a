"""Direct preference optimization on top of `SFTTrainer`, with its own rows and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tuneyard.network import Scores
from tuneyard.train.preferences import answer_log_probs, flatten_pairs, preference_losses
from tuneyard.train.trainer import SFTTrainer
from tuneyard.values import DpoArgs


class DPOTrainer(SFTTrainer):
    """Train on pairs of answers; see `SFTTrainer` for its arguments, and set `dpo` before training.

    Attributes:
        dpo: The settings of the loss.
    """

    dpo: DpoArgs
    collate = staticmethod(flatten_pairs)

    def summed_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor | int, Scores]:
        """Sum the losses of a row's items, its pairs; see `SFTTrainer.summed_loss`."""
        scores = self.forward_rows(model, inputs)
        pairs = len(inputs["reference"])
        if not pairs:  # an empty share still takes part in the gradient exchange
            return scores.logits_KV.float().sum() * 0.0, 0, scores
        sums_N2, lengths_N2 = answer_log_probs(scores.logits_KV, inputs["targets"], inputs["answers"], pairs)
        losses_N = preference_losses(sums_N2 - inputs["reference"], lengths_N2, self.dpo)
        return losses_N.sum(), pairs, scores

    def evaluated(self, model: torch.nn.Module, inputs: Mapping[str, Any]) -> list[float]:
        """Return the loss, the two rewards, the correctly ranked pairs and the number of pairs of a row."""
        scores = self.forward_rows(model, inputs)
        pairs = len(inputs["reference"])
        if not pairs:
            return [0.0] * 5
        sums_N2, lengths_N2 = answer_log_probs(scores.logits_KV, inputs["targets"], inputs["answers"], pairs)
        scores_N2 = sums_N2 - inputs["reference"]
        losses_N = preference_losses(scores_N2, lengths_N2, self.dpo)
        chosen, rejected = (self.dpo.beta * scores_N2).sum(0).tolist()
        right = (scores_N2[:, 0] > scores_N2[:, 1]).sum().item()
        return [losses_N.sum().item(), chosen, rejected, right, float(pairs)]

    def metrics_of(self, sums: list[float], prefix: str) -> dict[str, float]:
        """Return the means under TRL's names."""
        *totals, pairs = sums
        loss, chosen, rejected, right = (total / max(pairs, 1) for total in totals)
        return {
            f"{prefix}_loss": loss,
            f"{prefix}_rewards/chosen": chosen,
            f"{prefix}_rewards/rejected": rejected,
            f"{prefix}_rewards/margins": chosen - rejected,
            f"{prefix}_rewards/accuracies": right,
            f"{prefix}_pairs": int(pairs),
        }
