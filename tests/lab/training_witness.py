"""Records what a tiny training in this process did: its Trainer, its optimizer, its data loader and its store.

A callback beside transformers' default ones inspects the Trainer when the training begins and at each event, and
records which attributes of the TrainingArguments are read from then on. Not a test itself.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers import trainer as transformers_trainer

from lab import training as lab

CLOCKS = ("_runtime", "_second", "time", "seconds")


class Witness(TrainerCallback):
    """Records each event; tests compare `seen`."""

    seen: dict[str, Any]

    def __init__(self) -> None:
        self.seen = CURRENT

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Describe the Trainer."""
        trainer = _trainer_of(sys._getframe())
        self.seen.update(describe(trainer), max_steps=state.max_steps)
        evaluated = trainer.evaluated

        def note(model: Any, inputs: Any) -> Any:
            self.seen.setdefault("evaluated together", []).append(list(inputs["cu_seq_lens_q"].shape))
            return evaluated(model, inputs)

        trainer.evaluated = note

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step."""
        self.seen.setdefault("evaluations", []).append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step."""
        self.seen.setdefault("saves", []).append(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Record the metrics."""
        kept = {name: value for name, value in (logs or {}).items() if not name.endswith(CLOCKS)}
        self.seen.setdefault("logs", []).append((state.global_step, kept))


CURRENT: dict[str, Any] = {}


def describe(trainer: Any) -> dict[str, Any]:
    """Describe a Trainer before its first step by the effect of its arguments."""
    optimizer = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    loader = trainer.callback_handler.train_dataloader
    plan = trainer.plan_training()
    wrapped = trainer.model_wrapped
    ddp = wrapped if isinstance(wrapped, torch.nn.parallel.DistributedDataParallel) else None
    return {
        "kind": type(trainer).__name__,
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "groups": [
            {name: _plain(value) for name, value in {**group, "params": len(group["params"])}.items()}
            for group in optimizer.param_groups
        ],
        "schedule": type(trainer.lr_scheduler).__name__,
        "loader": {
            name: str(getattr(loader, name, None))
            for name in ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor")
        }
        | {"context": type(getattr(loader, "multiprocessing_context", None)).__name__},
        "micro-batches": [plan.micro_batches(step) for step in range(4)],
        "callbacks": sorted(type(each).__name__ for each in trainer.callback_handler.callbacks),
        "stops": [vars(each) for each in trainer._early_stops()],
        "compiled": str(trainer.accelerator.state.dynamo_plugin.to_dict()),
        "autocast": trainer.accelerator.mixed_precision,
        "accumulation": str(trainer.accelerator.gradient_state.plugin_kwargs),
        "weights": {name: str(weight.dtype) for name, weight in trainer.network.named_parameters()},
        "trained": {name: list(each.shape) for name, each in trainer.network.named_parameters() if each.requires_grad},
        "hooks": sum(len(module._forward_hooks) for module in trainer.network.modules()),
        "config": trainer.network.config.to_dict(),
        "recomputes": [
            str(getattr(module, "_gradient_checkpointing_func", None))
            for module in trainer.network.modules()
            if getattr(module, "gradient_checkpointing", False)
        ][:1],
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.matmul.allow_tf32),
        "noise": trainer.noise is not None and trainer.noise.alpha,
        "rows": [_sums(trainer.rows), trainer.validation_rows and _sums(trainer.validation_rows)],
        "dropout": sum(module.p for module in trainer.network.modules() if isinstance(module, torch.nn.Dropout)),
        "exchange": ddp
        and [
            ddp.find_unused_parameters,
            ddp.bucket_bytes_cap,
            ddp.broadcast_buffers,
            ddp.static_graph,
            dist.get_backend(),
            str(dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout),
        ],
    }


def _sums(rows: Any) -> str:
    lengths = [int(each) for each in rows.lengths]
    encoded = getattr(rows, "rows", rows)
    digest = hashlib.sha256()
    for index in range(len(encoded)):
        digest.update(encoded[index]["input_ids"].tobytes() + encoded[index]["loss_mask"].tobytes())
    return f"{lengths} {digest.hexdigest()[:12]}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)


def _trainer_of(frame: Any) -> Any:
    while frame is not None:
        if isinstance(found := frame.f_locals.get("self"), Trainer):
            return found
        frame = frame.f_back
    raise AssertionError("no Trainer calls this")


class _Noted:
    """Records which arguments are read; nothing while `names` is None."""

    names: set[str] | None = None


def _noting(self: Any, name: str) -> Any:
    if _Noted.names is not None and not name.startswith("_"):
        _Noted.names.add(name)
    return object.__getattribute__(self, name)


@contextmanager
def witnessed() -> Iterator[dict[str, Any]]:
    """Record every Trainer in the block; yields what was seen."""
    CURRENT.clear()
    transformers_trainer.DEFAULT_CALLBACKS.append(Witness)
    TrainingArguments.__getattribute__ = _noting
    made = TrainingArguments.__post_init__

    def note_from_here(self: Any) -> None:
        _Noted.names = None
        made(self)
        _Noted.names = CURRENT.setdefault("read", set())

    TrainingArguments.__post_init__ = note_from_here
    try:
        with torch._dynamo.config.patch(disable=True):  # only checks what would be compiled
            yield CURRENT
    finally:
        TrainingArguments.__post_init__ = made
        transformers_trainer.DEFAULT_CALLBACKS.remove(Witness)
        _Noted.names = None
        del TrainingArguments.__getattribute__
        if dist.is_initialized():
            dist.destroy_process_group()
        for state in (AcceleratorState, PartialState, GradientState):
            state._reset_state()
        torch.use_deterministic_algorithms(False)


def witness(values: dict[str, Any], store: Path, folder: Path, *, until: int) -> dict[str, Any]:
    """Train in this process and describe what it did.

    Args:
        values: As a user writes them.
        store: With model and data; what the run leaves there is described too.
        folder: For the process; it has to be new.
        until: The step that ends it as a kill does; 0 for a whole run.

    Returns:
        What a test compares, without anything that repeats the values.
    """
    with witnessed() as seen:
        lab.train_here(values, store, folder, kill_at=until)
        found = dict(seen)
    remote = store / values["checkpointsRemote"]
    found["places"] = sorted(path.relative_to(remote).parts[0] for path in remote.glob("*/manifest.json"))
    found["events"] = bool(list(remote.glob("tensorboard/*")))
    if until == 0:
        found["final"] = lab.final_sha256(store, values["checkpointsRemote"])
    return {name: value if name == "read" else _without(folder, value) for name, value in found.items()}


def _without(folder: Path, value: Any) -> Any:
    """Return the value without the name of the folder that the process worked in."""
    return json.loads(json.dumps(value, default=str).replace(str(folder), "folder"))


def as_text(found: Mapping[str, Any]) -> str:
    """Return what was recorded as comparable text, except what was read."""
    return json.dumps({name: value for name, value in found.items() if name != "read"}, default=str, sort_keys=True)
