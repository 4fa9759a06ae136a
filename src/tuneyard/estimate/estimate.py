"""All of an estimate put together: model, adapter, data, memory, time and disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuneyard.estimate.adapter import Adapter, count_trained
from tuneyard.estimate.memory import Memory, estimate_memory, state_bytes, weight_bytes
from tuneyard.estimate.model import ModelFacts, read_model
from tuneyard.estimate.work import Work, measure_work, seconds_of, step_flops
from tuneyard.store import Store
from tuneyard.train.distribution import shards
from tuneyard.train.inputs import delivered_model
from tuneyard.train.supported import refuse_unsupported
from tuneyard.values import BatchSizes, FinetuneValues, resolve_batch_sizes


@dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Attributes:
        downloads: The base model as delivered.
        checkpoint: One checkpoint, optimizer included.
        checkpoints: Those kept in the store at a time.
        final: `checkpoint-final`.
        merged: `checkpoint-final-merged`; 0 where it is not asked for.
    """

    downloads: int
    checkpoint: int
    checkpoints: int
    final: int
    merged: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Attributes:
        parameters: Of the model and its adapter.
        trained: Those that are trained.
        memory: Of one process, or accelerator, by part.
        processes: How many train together.
        sizes: How the batch is spread.
        work: Rows, tokens and steps.
        seconds: How long training takes, roughly; None where the steps are not known.
        how: How that was estimated.
        disk: What lies on disk and in the store.
        notes: What is not counted or assumed.
    """

    parameters: int
    trained: int
    memory: Memory
    processes: int
    sizes: BatchSizes
    work: Work
    seconds: float | None
    how: str
    disk: Disk
    notes: tuple[str, ...]

    @property
    def memory_of_all(self) -> int:
        """Bytes of all processes together."""
        return self.memory.total * self.processes

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON-ready data, under the names of its attributes."""
        data = asdict(self)
        data["memory"]["total"] = self.memory.total
        return data

    @staticmethod
    def of(data: Mapping[str, Any]) -> Estimate:
        """Make it again from `to_json`."""
        memory = {part: size for part, size in data["memory"].items() if part != "total"}
        parts: dict[str, Any] = {
            "memory": Memory(**memory),
            "sizes": BatchSizes(**data["sizes"]),
            "work": Work(**data["work"]),
            "disk": Disk(**data["disk"]),
            "notes": tuple(data["notes"]),
        }
        return Estimate(**{**data, **parts})


def estimate(values: FinetuneValues, store: Store, *, here: bool = True) -> Estimate:
    """Estimate a finetuning run.

    Args:
        values: The resolved values.
        store: Where model and data lie.
        here: Whether it would be trained in this environment; see `refuse_unsupported`.

    Raises:
        NotFoundError: Where the base model is not delivered.
        InvalidValuesError: For what is not trained, or where the adapter's targets match nothing.
        InvalidDataError: Where rows of the data can't be trained on.
    """
    notes: list[str] = []
    refuse_unsupported(values, notes.append, here=here)
    batch = values.finetuning_config.batchsize_conf
    sizes = resolve_batch_sizes(batch.total_train_batch_size, values.processes, batch.max_per_device_train_batch_size)
    manifest = delivered_model(store, values.basemodel)
    model = read_model(store, values.basemodel, manifest)
    adapter = count_trained(model, values)
    work = measure_work(values, store, manifest, sizes, notes.append)
    notes += adapter.notes
    if not work.exact:
        notes.append("the data is not delivered: every row is taken to be max_seq_length tokens long")
    if shards(values) is not None:
        notes.append("FSDP: weights, gradients and optimizer states are counted whole, though a process holds a share")
    seconds, how = None, "the number of steps is not known"
    if work.steps is not None:
        tokens = (work.tokens_per_epoch or 0) / (work.rows or 1) * sizes.total
        flops = step_flops(values, model, adapter, tokens or work.row_longest * sizes.total) * work.steps
        seconds, how = seconds_of(values, flops)
    return Estimate(
        parameters=model.parameters + adapter.added,
        trained=adapter.trained,
        memory=estimate_memory(values, model, adapter, work),
        processes=values.processes,
        sizes=sizes,
        work=work,
        seconds=seconds,
        how=how,
        disk=_disk(values, model, adapter, work),
        notes=tuple(notes),
    )


def _disk(values: FinetuneValues, model: ModelFacts, adapter: Adapter, work: Work) -> Disk:
    args = values.finetuning_config.training_args
    item = weight_bytes(values, model)
    final = adapter.trained * 4 if adapter.frozen else model.parameters * item
    checkpoint = final + state_bytes(values, model, adapter)
    saves = _saves(args.save_strategy, args.save_steps, work, args.num_train_epochs)
    kept = saves if args.save_total_limit is None else min(saves, args.save_total_limit)
    merged = model.parameters * item if values.mergeAdapter else 0
    return Disk(model.download_bytes, checkpoint, checkpoint * kept, final, merged)


def _saves(strategy: str, every: float, work: Work, epochs: float) -> int:
    if strategy == "no" or work.steps is None:
        return 0
    if strategy == "epoch":
        return math.ceil(epochs)
    interval = every if every >= 1 else max(1, math.ceil(every * work.steps))
    return math.ceil(work.steps / interval)
