"""How the conversations of a micro-batch go through a model: in one flat row, or one after the other.

A flat row is fast, but correct only for models in which nothing but attention connects tokens, which is checked on the
model itself (`isolation`). One row per conversation is correct for every causal model.

Shape letters: T tokens of the row, K trained targets, D conversations of the row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

import torch


class Form(StrEnum):
    """How conversations are laid out."""

    FLAT = "flat"
    """All conversations of a micro-batch in one row, without padding."""

    SINGLE = "single"
    """Each conversation in a separate row."""


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores of the targets of a micro-batch.

    Attributes:
        logits_KV: Logits at the positions before the targets.
        balance: The load-balancing loss of a mixture of experts, a scalar; None where the model computes none.
    """

    logits_KV: torch.Tensor  # noqa: N815 - shape letters
    balance: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Forward:
    """Runs a micro-batch of `flatten` through a model.

    Attributes:
        form: How its conversations are laid out.
        selects: Whether the model can compute the logits of chosen positions alone (`logits_to_keep`).
    """

    form: Form = Form.FLAT
    selects: bool = True

    def __call__(self, model: torch.nn.Module, row: Mapping[str, Any]) -> Scores:
        """Compute the logits of a micro-batch's targets.

        Args:
            model: The model, wrapped or not.
            row: The result of `flatten`; labels and further entries are ignored.
        """
        if self.form == Form.FLAT:
            names = ("input_ids", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")
            return self._run(model, {name: row[name] for name in names}, row["logits_to_keep"])
        found = [self._run(model, {"input_ids": ids_1T}, keep_K) for ids_1T, keep_K in _conversations(row)]
        balances = [one.balance for one in found if one.balance is not None]
        balance = torch.stack(balances).mean() if balances else None
        return Scores(torch.cat([one.logits_KV for one in found]), balance)

    def _run(self, model: torch.nn.Module, inputs: dict[str, Any], keep_K: torch.Tensor) -> Scores:
        if self.selects:
            inputs = {**inputs, "logits_to_keep": keep_K}
        outputs = model(**inputs, use_cache=False)
        logits = outputs.logits[0] if self.selects else outputs.logits[0, keep_K]
        return Scores(logits, getattr(outputs, "aux_loss", None))


def _conversations(row: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the tokens (1, T) of each conversation that has targets, and the targets' positions in it."""
    keep_K: torch.Tensor = row["logits_to_keep"]
    for start, end in pairwise(row["cu_seq_lens_q"].tolist()):
        own = keep_K[(keep_K >= start) & (keep_K < end)]
        if len(own):
            yield row["input_ids"][:, start:end], own - start
