"""How much there is to compute: rows, tokens, steps, arithmetic and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.errors import NotFoundError
from tuneyard.job import encoded_rows, pull_dataset, training_keys, validation_keys
from tuneyard.progress import Notify
from tuneyard.store import Store
from tuneyard.values import BatchSizes, FinetuneValues

if TYPE_CHECKING:
    from tuneyard.data import Encoded

PEAK_FLOPS = {"amd.com/gpu": ("MI300X", 1.3e15), "nvidia.com/gpu": ("H100", 0.99e15)}
"""Dense bfloat16 operations per second by the vendors' data sheets, of the card that is assumed."""
ACCELERATOR_SHARE = 0.35
CPU_SHARE = 0.6
"""Shares of its matrix products' speed that a training reaches, the rest being everything else."""


@dataclass(frozen=True)
class Work:
    """What a run goes through.

    Attributes:
        rows: Sequences trained on, mostly one for each conversation, or preferences; None if there is no data yet.
        tokens_per_epoch: Their tokens, likewise.
        trained_tokens_per_epoch: Those in the loss, likewise.
        steps: Optimizer steps in all; None if that depends on data that is not delivered.
        longest: Tokens of the largest micro-batch there can be: its conversations one after the other.
        longest_trained: Those of them in the loss.
        row_longest: Tokens of the longest sequence.
        exact: Whether the data was read.
    """

    rows: int | None
    tokens_per_epoch: int | None
    trained_tokens_per_epoch: int | None
    steps: int | None
    longest: int
    longest_trained: int
    row_longest: int
    exact: bool


def measure_work(
    values: FinetuneValues,
    store: Store,
    base: Path,
    scratch: Path,
    sizes: BatchSizes,
    notify: Notify,
    check: Callable[[Sequence[Encoded]], None],
) -> Work:
    """Encode the data as training does; where it is not delivered, take what the values allow at most.

    Args:
        values: The resolved values.
        store: The store of the data.
        base: A folder with the base model's files but the weights.
        scratch: A folder for the data.
        sizes: The resolved batch.
        notify: Called with what a mix takes of each file.
        check: Refuses rows that the model can't take.

    Raises:
        InvalidDataError: If rows can't be trained on.
    """
    config = values.finetuning_config
    pairs = config.method == "dpo"
    limit = (config.preference_args.max_length or 2048) if pairs else config.sft_args.max_seq_length
    given_steps = config.training_args.max_steps
    prompt = values.virtual_tokens
    try:
        sequences, validation = _sequences(values, store, base, scratch, notify)
    except NotFoundError:
        longest = (limit + prompt) * sizes.per_device * (2 if pairs else 1)
        steps = given_steps if given_steps > 0 else None
        return Work(None, None, None, steps, longest, longest, limit, exact=False)
    check([*sequences, *validation])
    lengths = [len(each.input_ids) for each in sequences]
    trained = [sum(each.loss_mask) for each in sequences]
    row_longest = max(lengths)
    if pairs:  # a preference is both of its answers in one row
        lengths = [chosen + rejected for chosen, rejected in zip(lengths[::2], lengths[1::2], strict=True)]
        trained = [chosen + rejected for chosen, rejected in zip(trained[::2], trained[1::2], strict=True)]
    count = len(lengths)
    drop = config.training_args.dataloader_drop_last and count >= sizes.total
    per_epoch = count // sizes.total if drop else math.ceil(count / sizes.total)
    steps = given_steps if given_steps > 0 else math.ceil(config.training_args.num_train_epochs * per_epoch)
    return Work(
        rows=count,
        tokens_per_epoch=sum(lengths),
        trained_tokens_per_epoch=sum(trained),
        steps=steps,
        longest=sum(sorted(lengths)[-sizes.per_device :]) + prompt * sizes.per_device * (2 if pairs else 1),
        longest_trained=sum(sorted(trained)[-sizes.per_device :]),
        row_longest=row_longest,
        exact=True,
    )


def _sequences(
    values: FinetuneValues, store: Store, base: Path, scratch: Path, notify: Notify
) -> tuple[list[Encoded], list[Encoded]]:
    training = [pull_dataset(store, key, scratch) for key in training_keys(values)]
    validation = [pull_dataset(store, key, scratch) for key in validation_keys(values)]
    return encoded_rows(values, base, training, validation, notify)


def largest_batch(values: FinetuneValues, sizes: BatchSizes, work: Work) -> list[tuple[int, int]]:
    """Return the tokens and the trained tokens of each conversation of the largest micro-batch, all alike.

    Args:
        values: The resolved values.
        sizes: The resolved batch.
        work: What the run goes through.
    """
    answers = 2 if values.finetuning_config.method == "dpo" else 1
    count = answers * min(sizes.per_device, work.rows or sizes.per_device)
    tokens = work.longest - count * values.virtual_tokens
    return [(_share(tokens, count, place), _share(work.longest_trained, count, place)) for place in range(count)]


def _share(whole: int, parts: int, place: int) -> int:
    return max(1, whole // parts + (place < whole % parts))


def seconds_of(
    values: FinetuneValues, flops: float, *, measure: Callable[[], float] | None = None
) -> tuple[float, str]:
    """Turn operations into seconds, roughly.

    Args:
        values: The resolved values.
        flops: Operations of the whole run.
        measure: Measures this machine's operations per second; `cpu_flops` where None.

    Returns:
        Seconds, and how they were estimated.
    """
    if values.gpuResource:
        card, peak = PEAK_FLOPS.get(values.gpuResource, ("200 TFLOP/s accelerator", 2e14))
        how = f"{flops:.2e} operations at {ACCELERATOR_SHARE:.0%} of a {card}'s data sheet: an estimate"
        return flops / (peak * ACCELERATOR_SHARE * values.processes), how
    speed = (measure or cpu_flops)()
    how = f"{flops:.2e} operations at {CPU_SHARE:.0%} of {speed / 1e9:.0f} GFLOP/s as measured here: an estimate"
    return flops / (speed * CPU_SHARE), how


def cpu_flops() -> float:
    """Measure this machine's speed of float32 matrix products, in operations per second: the best of three."""
    import numpy as np

    best, side = 0.0, 768
    matrix = np.full((side, side), 0.5, dtype=np.float32)
    for _ in range(3):
        started = time.perf_counter()
        np.matmul(matrix, matrix)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best
