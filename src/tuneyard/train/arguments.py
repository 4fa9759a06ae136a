"""The values as transformers' TrainingArguments."""

from __future__ import annotations

import math
from typing import Any

import torch.distributed as dist
from transformers import TrainingArguments

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.job import precision_of, shards
from tuneyard.network import configure_mlflow, limit_waiting
from tuneyard.train.prepare import Prepared
from tuneyard.train.private import set_collective_timeout, use_one_accelerator
from tuneyard.values import FinetuneValues

CHECKPOINTS = "checkpoints"
"""Relative to the process's folder, so that the best checkpoint's path in a saved state is the same everywhere."""


def training_arguments(values: FinetuneValues, prepared: Prepared) -> TrainingArguments:
    """Make the arguments; join the process group if several processes train.

    Every value is passed on. What Tuneyard does itself is disabled in the Trainer: rotating checkpoints (the bucket is
    pruned too), progress bars, and moving to a device other than the chosen one.

    Args:
        values: The resolved values.
        prepared: Batch sizes and device.

    Raises:
        InvalidValuesError: If transformers refuses them.
    """
    config = values.finetuning_config
    configured: dict[str, Any] = {**config.training_args.to_transformers(), "report_to": list(values.trackers)}
    configured["learning_rate"] = learning_rate(values, prepared.total)
    autocast = precision_of(values, prepared.stored_dtype, prepared.device).autocast
    ours: dict[str, Any] = {
        "bf16": autocast == "bfloat16",
        "fp16": autocast == "float16",
        "output_dir": CHECKPOINTS,
        "per_device_train_batch_size": prepared.per_device,
        "gradient_accumulation_steps": prepared.accumulation,
        "per_device_eval_batch_size": config.batchsize_conf.per_device_eval_batch_size or prepared.per_device,
        "logging_nan_inf_filter": False,  # a loss that is not finite stops the training
        "neftune_noise_alpha": None,  # per conversation, not per row: `noise`
        "save_total_limit": None,
        "disable_tqdm": True,
        "use_cpu": prepared.device == "cpu",
        "remove_unused_columns": False,
        "save_on_each_node": False,  # the main process publishes, and the other nodes fetch
    }
    if configured.get("ddp_find_unused_parameters") is None:
        ours["ddp_find_unused_parameters"] = False  # every trained parameter takes part in every row
    if (options := shards(values)) is not None:
        ours |= {"fsdp": True, "fsdp_config": options}
    limit_waiting()
    if config.tracking is not None:
        configure_mlflow(config.tracking)
        if config.tracking.run_name is not None:
            ours["run_name"] = config.tracking.run_name
    try:
        arguments = TrainingArguments(**{**configured, **ours})
    except (ValueError, ImportError, TypeError) as error:
        problem = Problem("finetuning_config.training_args", "are refused by transformers", allowed=str(error))
        raise InvalidValuesError(
            f"transformers refuses finetuning_config.training_args: {error}", problems=[problem]
        ) from error
    if dist.is_initialized() and prepared.device == "cpu":
        set_collective_timeout(config.training_args.ddp_timeout)
    use_one_accelerator(arguments)
    return arguments


def learning_rate(values: FinetuneValues, total_batch_size: int) -> float:
    """Return the learning rate with the values' `overrides` applied.

    Args:
        values: The resolved values.
        total_batch_size: Conversations per optimizer step.
    """
    overrides = values.finetuning_config.overrides
    scale = {"none": 1.0, "sqrt": math.sqrt(total_batch_size), "linear": float(total_batch_size)}
    rate = values.finetuning_config.training_args.learning_rate
    return rate * overrides.lr_multiplier * scale[overrides.lr_batch_size_scaling]
