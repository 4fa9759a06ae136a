"""All of an estimate put together: model, adapter, data, memory, time and disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.estimate.memory import Memory, estimate_memory, state_bytes, uncounted
from tuneyard.estimate.network import Network, build_network
from tuneyard.estimate.work import Work, largest_batch, measure_work, seconds_of
from tuneyard.job import pull_settings, refuse_unsupported, shards
from tuneyard.models import find_base, require_library
from tuneyard.store import Manifest, Store
from tuneyard.values import BatchSizes, FinetuneValues

if TYPE_CHECKING:
    from tuneyard.data import Encoded
    from tuneyard.network import Traced

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Attributes:
        downloads: The base model as delivered.
        checkpoint: One checkpoint, optimizer included.
        checkpoints: Those kept in the store at a time.
        final: `checkpoint-final`.
        merged: `checkpoint-final-merged`; 0 if it is not configured.
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
        seconds: The estimated duration of the training; None if the number of steps is not known.
        how: How that was estimated.
        disk: What is stored on disk and in the bucket.
        notes: What is assumed or not counted.
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
        """Restore it from the result of `to_json`."""
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
        store: The store of model and data.
        here: Whether it would be trained in this environment; see `refuse_unsupported`.

    Raises:
        NotFoundError: If the base model is not delivered, or torch and transformers are not installed.
        InvalidValuesError: For what is not trained, where the adapter's targets match nothing, or where PEFT refuses.
        IncompleteModelError: If the base model's files don't hold the weights that its config names.
        InvalidDataError: If rows of the data can't be trained on, or the base model can't be loaded.
    """
    notes: list[str] = []
    refuse_unsupported(values, notes.append, here=here)
    sizes = values.batch_sizes
    manifest = find_base(store, values.basemodel)
    require_library()
    with tempfile.TemporaryDirectory(prefix="tuneyard-plan-") as folder:
        scratch = Path(folder)
        settings = pull_settings(store, values.basemodel, manifest, scratch / "model")
        network = build_network(values, store, manifest, settings, scratch / "outline", here=here)
        check = partial(_check_rows, values, network.base)
        work = measure_work(values, store, settings, scratch, sizes, notes.append, check)
    return _estimate(values, network, work, sizes, manifest, notes)


def _check_rows(values: FinetuneValues, base: Any, rows: Sequence[Encoded]) -> None:
    from tuneyard.network import check_rows

    lengths, largest = [len(row.input_ids) for row in rows], [max(row.input_ids) for row in rows]
    check_rows(base, lengths, largest, lambda number: rows[number].where, virtual_tokens=values.virtual_tokens)


def _estimate(
    values: FinetuneValues, network: Network, work: Work, sizes: BatchSizes, manifest: Manifest, notes: list[str]
) -> Estimate:
    traced = _trace(values, network, largest_batch(values, sizes, work), accumulates=sizes.accumulation > 1)
    if notice := network.precision.notice:
        notes.append(notice)
    notes += [*network.notes, *traced.notes, *uncounted(values)]
    if not work.exact:
        notes.append("the data is not delivered: every row is assumed to be max_seq_length tokens long")
    if shards(values) is not None:
        notes.append(
            "FSDP: weights, gradients and optimizer states are counted in full, though a process holds a shard"
        )
    seconds, how = None, "the number of steps is not known"
    if work.steps is not None:
        tokens = (work.tokens_per_epoch or 0) / (work.rows or 1) * sizes.total or work.row_longest * sizes.total
        seconds, how = seconds_of(values, traced.trace.flops / traced.tokens * tokens * work.steps)
    return Estimate(
        parameters=network.parameters,
        trained=network.trained,
        memory=estimate_memory(values, network, traced.trace, work, accumulates=sizes.accumulation > 1),
        processes=values.processes,
        sizes=sizes,
        work=work,
        seconds=seconds,
        how=how,
        disk=_disk(values, network, work, manifest.size),
        notes=tuple(notes),
    )


def _trace(values: FinetuneValues, network: Network, batch: list[tuple[int, int]], *, accumulates: bool) -> Traced:
    from tuneyard.network import Conversation, switch_off, trace_step

    config = values.finetuning_config
    pairs = config.method == "dpo"
    if pairs and config.preference_args.disable_dropout:
        switch_off(network.model)
    return trace_step(
        network.model,
        network.base,
        [Conversation(*shape) for shape in batch],
        together=2 if pairs else 1,
        configured=config.run_conf.model_args.get("attn_implementation"),
        autocast=network.precision.autocast,
        accumulates=accumulates,
    )


def _disk(values: FinetuneValues, network: Network, work: Work, downloads: int) -> Disk:
    args = values.finetuning_config.training_args
    base = network.base_parameters * _BYTES[network.precision.frozen]
    adapts = values.finetuning_config.peft_conf.peft_type != "NO_PEFT"
    final = network.trained_bytes if adapts else base
    checkpoint = network.trained_bytes + state_bytes(values, network)
    saves = _saves(args.save_strategy, args.save_steps, work, args.num_train_epochs)
    kept = saves if args.save_total_limit is None else min(saves, args.save_total_limit)
    return Disk(downloads, checkpoint, checkpoint * kept, final, base if values.mergeAdapter else 0)


def _saves(strategy: str, every: float, work: Work, epochs: float) -> int:
    if strategy == "no" or work.steps is None:
        return 0
    if strategy == "epoch":
        return math.ceil(epochs)
    interval = every if every >= 1 else max(1, math.ceil(every * work.steps))
    return math.ceil(work.steps / interval)
