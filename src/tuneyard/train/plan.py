"""Plans which conversations each optimizer step holds, and which process takes which of them.

A step is planned, not sampled: the plan of an epoch depends on seed and epoch alone, never on the number of
processes. Every process runs the same number of micro-batches per step; a process without rows left gets an empty list,
which the collator turns into a row that adds nothing to loss or gradient. So N processes compute the losses of one,
and the data cursor of a checkpoint is just its step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

Order = Literal["random", "sequential", "group_by_length"]


class StepPlan(Sampler[list[int]]):
    """Yield the micro-batches of one process for one epoch, as lists of conversation indices.

    Args:
        lengths: Tokens of each conversation.
        total: Conversations per optimizer step over all processes.
        per_device: Conversations per micro-batch, at most.
        accumulation: Micro-batches per optimizer step and process.
        process: This process's index, from 0.
        processes: How many processes train together.
        seed: Seed of the order.
        order: `random`, `sequential` or `group_by_length`, as `TrainingArguments.train_sampling_strategy`.
        drop_last: Leave out a last step that is not full.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        total: int,
        per_device: int,
        accumulation: int,
        process: int = 0,
        processes: int = 1,
        seed: int = 42,
        order: Order = "random",
        drop_last: bool = False,
    ) -> None:
        assert total == per_device * accumulation * processes, "values.resolve_batch_sizes keeps this equal"
        self.lengths = list(lengths)
        self.total = total
        self.per_device = per_device
        self.accumulation = accumulation
        self.process = process
        self.processes = processes
        self.seed = seed
        self.order: Order = order
        self.epoch = 0
        count = len(self.lengths)
        self.steps = count // total if drop_last and count >= total else math.ceil(count / total)

    @property
    def batch_sampler(self) -> StepPlan:
        """Itself: the Trainer sets the epoch through this attribute (`Trainer._run_epoch`)."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration takes."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Micro-batches of this process in one epoch."""
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for step in range(self.steps):
            yield from self._micro_batches(order, step)

    def micro_batches(self, step: int) -> list[list[int]]:
        """Return this process's micro-batches of an optimizer step, counted from 0 over all epochs."""
        epoch, self.epoch = self.epoch, step // self.steps
        try:
            return self._micro_batches(self._order(), step % self.steps)
        finally:
            self.epoch = epoch

    def _micro_batches(self, order: list[int], step: int) -> list[list[int]]:
        members = order[step * self.total : (step + 1) * self.total]
        starts = [(micro * self.processes + self.process) * self.per_device for micro in range(self.accumulation)]
        return [members[start : start + self.per_device] for start in starts]

    def _order(self) -> list[int]:
        if self.order == "sequential":
            return list(range(len(self.lengths)))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.order == "group_by_length":
            return get_length_grouped_indices(self.lengths, self.total, generator=generator)
        return torch.randperm(len(self.lengths), generator=generator).tolist()
