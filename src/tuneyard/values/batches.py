"""How a total batch is spread over processes, devices and accumulation. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from tuneyard.errors import InvalidValuesError, Problem

WHERE = "finetuning_config.batchsize_conf.total_train_batch_size"


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """A total batch and its factors: total = processes x per_device x accumulation.

    Attributes:
        total: Conversations in one optimizer step.
        per_device: Conversations that one process takes at once.
        accumulation: How many times each process does so in one step.
    """

    total: int
    per_device: int
    accumulation: int


def resolve_batch_sizes(total: int | None, processes: int, max_per_device: int) -> BatchSizes:
    """Split a total batch over processes.

    Args:
        total: Conversations in one optimizer step; None for one on each process.
        processes: How many processes train, at least 1.
        max_per_device: The most conversations that one process takes at once, at least 1.

    Returns:
        The sizes, with the largest `per_device` that divides each process's share and is not over the cap.

    Raises:
        InvalidValuesError: If the total can't be shared evenly; with the nearest possible totals.
    """
    total = processes if total is None else total
    if problem := impossible_total(total, processes):
        hint = f"--set {WHERE}={nearest_totals(total, processes)[0]}"
        raise InvalidValuesError(f"{problem}.", problems=[problem], hint=hint)
    share = total // processes
    per_device = max(size for size in range(1, min(share, max_per_device) + 1) if share % size == 0)
    return BatchSizes(total, per_device, share // per_device)


def nearest_totals(total: int, processes: int) -> tuple[int, ...]:
    """Return the totals nearest to one that the processes can share, the nearest first."""
    below = total // processes * processes
    candidates = [size for size in (below, below + processes) if size > 0]
    return tuple(sorted(candidates, key=lambda size: abs(size - total)))


def impossible_total(total: int, processes: int) -> Problem | None:
    """Return the problem with a total, or None if the processes can share it."""
    if total >= 1 and total % processes == 0:
        return None
    nearest = " or ".join(str(size) for size in sorted(nearest_totals(total, processes)))
    return Problem(
        WHERE,
        f"can't be shared evenly by {processes} processes",
        value=str(total),
        allowed=f"a multiple of {processes}; nearest: {nearest}",
    )
