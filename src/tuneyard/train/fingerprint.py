"""What may not change under one `checkpointsRemote`: all that decides which numbers come out.

Logging, evaluation and saving cadence, where a run trains, how a step is split over devices and whether the adapter is
merged at the end may change between two attempts; nothing here does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuneyard.values import BatchSizes, FinetuneValues

TRAINING_ARGS = (
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "dataloader_drop_last",
)
"""The training arguments that decide the losses."""


def fingerprint(
    values: FinetuneValues, base_sha256: str, datasets: Mapping[str, str], sizes: BatchSizes
) -> dict[str, Any]:
    """List what may not change between attempts.

    Args:
        values: The resolved values.
        base_sha256: Content hash of the base model.
        datasets: Content hash of each data file, by key.
        sizes: The resolved batch sizes.

    Returns:
        A flat mapping from the values' dotted paths to plain JSON values.
    """
    config = values.finetuning_config
    data = config.data_conf.model_dump(mode="json")
    scaled = config.overrides.model_dump(mode="json")
    arguments = config.training_args.model_dump(mode="json")
    whole: dict[str, Any] = {
        "basemodel": base_sha256,
        "finetuning_config.method": config.method,
        "finetuning_config.data_conf": data,
        "finetuning_config.batchsize_conf.total_train_batch_size": sizes.total,
        "finetuning_config.peft_conf": config.peft_conf.model_dump(mode="json"),
        "finetuning_config.quant_conf": config.quant_conf.model_dump(mode="json"),
        "finetuning_config.overrides": scaled,
        "finetuning_config.sft_args": config.sft_args.model_dump(mode="json"),
        "finetuning_config.run_conf.model_args.dtype": config.run_conf.model_args.get("dtype"),
    }
    if config.method == "dpo":
        whole["finetuning_config.dpo_args"] = config.preference_args.model_dump(mode="json")
    if config.early_stopping is not None:
        whole["finetuning_config.early_stopping"] = config.early_stopping.model_dump(mode="json")
    data_hashes = {f"data {key}": digest for key, digest in datasets.items()}
    trained = {f"finetuning_config.training_args.{name}": arguments.get(name) for name in TRAINING_ARGS}
    return {**whole, **data_hashes, **trained}
