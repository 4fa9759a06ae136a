"""Private state of transformers, accelerate and torch that training reads or writes, and why each is needed.

Nothing else in `train` reads or writes a private attribute of a library; `network.private` has those of the model.
`tests/unit/train/test_private.py` fails when a library renames one of them or changes its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import distributed_c10d

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

TRAINER_METHODS: Mapping[str, str] = {
    "_save_checkpoint": "adds the counters that the Trainer does not save, and reports the finished folder",
    "_maybe_log_save_evaluate": "the only place between a step's log, evaluation and save and the next step",
    "_run_epoch": "takes one step too many when it resumes where `max_steps` ended an epoch",
    "_get_grad_norm": "the norm is checked before the optimizer steps",
    "_load_best_model": "an optimizer without a schedule holds averages of the weights, and FSDP shards",
    "_load_from_checkpoint": "a checkpoint holds whole weights, whatever the number of processes",
    "_save_optimizer_and_scheduler": "writes the whole optimizer state, whatever the number of processes",
    "_load_optimizer_and_scheduler": "reads what `_save_optimizer_and_scheduler` wrote",
    "_save": "writes given weights from the main process alone, where `save_model` gathers them itself",
    "_prepare_inputs": "moves a row to the device of the model",
}
"""The private methods of `transformers.Trainer` that its subclasses here override or call, and why."""


def loss_since_last_log(trainer: Trainer) -> torch.Tensor:
    """Return the summed loss of this process since the last log, a scalar.

    The Trainer keeps it between two logs and saves it in no checkpoint.

    Args:
        trainer: During `train`.
    """
    return trainer._tr_loss  # pyright: ignore[reportPrivateUsage]


def logged_loss(trainer: Trainer) -> tuple[float, int]:
    """Return the summed loss of all logged steps, and the step of the last log.

    They give the mean loss of the whole training, and the steps that the next log is the mean of. The Trainer saves
    neither in a checkpoint.

    Args:
        trainer: During `train`.
    """
    return trainer._total_loss_scalar, trainer._globalstep_last_logged  # pyright: ignore[reportPrivateUsage]


def restore_losses(trainer: Trainer, *, since_last_log: float, logged: float, last_logged_step: int) -> None:
    """Set what `loss_since_last_log` and `logged_loss` return, and let `train_loss` be the mean over all steps.

    The Trainer resets them when it resumes, right before `on_train_begin`, and counts the steps of the mean from the
    one it resumed from (`_initial_global_step`).

    Args:
        trainer: In `on_train_begin`.
        since_last_log: The summed loss of this process since the last log.
        logged: The summed loss of all logged steps.
        last_logged_step: The step of the last log.
    """
    trainer._tr_loss = torch.tensor(since_last_log, device=trainer.args.device)  # pyright: ignore[reportPrivateUsage]
    trainer._total_loss_scalar = logged  # pyright: ignore[reportPrivateUsage]
    trainer._globalstep_last_logged = last_logged_step  # pyright: ignore[reportPrivateUsage]
    trainer._initial_global_step = 0  # pyright: ignore[reportPrivateUsage]


def use_one_accelerator(arguments: TrainingArguments) -> None:
    """Let this process train on one accelerator at most.

    The Trainer would wrap the model in `DataParallel` over all that it sees, and has no argument against it.

    Args:
        arguments: Of the process.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)  # pyright: ignore[reportPrivateUsage]


def set_collective_timeout(seconds: float) -> None:
    """Set the timeout of the process group's collectives.

    transformers passes `ddp_timeout` on for accelerators only, and torch has no public way once a group exists.

    Args:
        seconds: How long a collective may take.
    """
    distributed_c10d._set_pg_timeout(timedelta(seconds=seconds))  # pyright: ignore[reportPrivateUsage]


def collective_device() -> torch.device:
    """Return the device of the process group's collectives: NCCL takes no tensors on the CPU."""
    return torch.device(distributed_c10d._get_object_coll_device())  # pyright: ignore[reportPrivateUsage]


def replace_unpickler(kind: type[Any]) -> None:
    """Replace the unpickler of torch's collectives of objects, which has no public setting.

    Args:
        kind: A subclass of the present one.
    """
    assert issubclass(kind, distributed_c10d._unpickler)  # pyright: ignore[reportPrivateUsage]
    distributed_c10d._unpickler = kind  # pyright: ignore[reportPrivateUsage]


def mark_sharded() -> None:
    """Let accelerate take this process for one of FSDP, which it does on accelerators only, also on the CPU."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._shared_state["distributed_type"] = DistributedType.FSDP  # pyright: ignore[reportPrivateUsage]
