"""What this version trains, and the refusal by name of every other value."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from tuneyard.device import VARIABLE
from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.job.distribution import AS_DATA_PARALLEL, unsupported
from tuneyard.progress import Notify
from tuneyard.values import DpoArgs, FinetuneValues, unserved_by_vllm
from tuneyard.whereabouts import installation

PEFT_TYPES = ("LORA", "VERA", "IA3", "PROMPT_TUNING", "NO_PEFT")
DPO_LOSSES = ("sigmoid", "hinge", "ipo", "robust")
DPO_SUPPORTED = (
    "beta",
    "label_smoothing",
    "loss_type",
    "loss_weights",
    "max_length",
    "disable_dropout",
    "padding_free",
    "precompute_ref_log_probs",
)
"""TRL's settings that are supported; rows are never padded, and the reference is always precomputed."""


def refuse_unsupported(values: FinetuneValues, notify: Notify, *, here: bool = True) -> None:
    """Refuse every value that this version does not support, and report what is done another way.

    Args:
        values: The resolved values.
        notify: Called with exact equivalents.
        here: Whether it is trained in this environment: then values that need something missing are refused too.

    Raises:
        InvalidValuesError: With every such key.
    """
    config = values.finetuning_config
    restricted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("finetuning_config.peft_conf.peft_type", config.peft_conf.peft_type, PEFT_TYPES),
        ("finetuning_config.peft_conf.task_type", config.peft_conf.task_type, ("CAUSAL_LM",)),
    ]
    problems = [
        Problem(where, "is not supported by this version", str(value), " or ".join(map(str, allowed)))
        for where, value, allowed in restricted
        if value not in allowed
    ]
    problems += unsupported(values) + _of_preferences(values) + _arguments(values) + (_missing(values) if here else [])
    if problems:
        raise InvalidValuesError(
            f"{len(problems)} value(s) are not supported by this version.",
            hint="Change each to one that is allowed. Nothing has started.",
            problems=problems,
        )
    if values.distributedType in AS_DATA_PARALLEL:
        notify(
            f"distributedType {values.distributedType}: trained with data parallelism, which computes the same losses"
        )
    if values.distributedType == "auto-fsdp" and values.processes == 1:
        notify("distributedType auto-fsdp: a single process holds all weights, so nothing is sharded")
    conf = config.peft_conf
    if not values.mergeAdapter and (unserved := unserved_by_vllm(conf.peft_type, conf.peft_kwargs)):
        notify(unserved)
    if config.method == "dpo" and not config.preference_args.precompute_ref_log_probs:
        notify("precompute_ref_log_probs is false: the reference is precomputed anyway, which gives the same losses")
    if config.quant_conf.quantization_type != "no-quantization":
        notify("quant_conf: trained on quantized weights; merged and served with the weights as delivered")
    if config.training_args.save_strategy == "no":
        notify("save_strategy is no: a stop saves, but after a kill the run restarts at step 0")


def _of_preferences(values: FinetuneValues) -> list[Problem]:
    """List the unsupported settings of `dpo_args` that are not at their defaults."""
    config = values.finetuning_config
    if config.method != "dpo":
        return []
    given, plain = config.preference_args.model_dump(), DpoArgs().model_dump()
    problems = [
        Problem(f"finetuning_config.dpo_args.{name}", "is not supported by this version", str(value), str(plain[name]))
        for name, value in given.items()
        if value != plain[name] and name not in DPO_SUPPORTED
    ]
    names = [given["loss_type"]] if isinstance(given["loss_type"], str) else given["loss_type"]
    problems += [
        Problem("finetuning_config.dpo_args.loss_type", "is not supported by this version", name, ", ".join(DPO_LOSSES))
        for name in names
        if name not in DPO_LOSSES
    ]
    if config.training_args.label_smoothing_factor:
        where = "finetuning_config.training_args.label_smoothing_factor"
        value = f"{config.training_args.label_smoothing_factor:g}"
        problems.append(Problem(where, "has no effect with method dpo", value, "dpo_args.label_smoothing"))
    return problems


def _missing(values: FinetuneValues) -> list[Problem]:
    """List what this environment lacks: Secrets, and packages that only some values need."""
    problems = [
        Problem(f"env.{name}", "names a Secret, which exists on a cluster only", allowed="a text")
        for name, value in values.env.items()
        if not isinstance(value, str) and "KUBERNETES_SERVICE_HOST" not in os.environ
    ]
    if values.finetuning_config.tracking is not None and importlib.util.find_spec("mlflow") is None:
        what = "needs the package mlflow-skinny, which is not installed"
        problems.append(Problem("finetuning_config.tracking", what, allowed=installation("train")))
    quantized = values.finetuning_config.quant_conf.quantization_type
    if quantized != "no-quantization":
        where = "finetuning_config.quant_conf.quantization_type"
        if importlib.util.find_spec("bitsandbytes") is None:
            problems.append(Problem(where, "needs the package bitsandbytes, which is not installed", quantized))
        elif os.environ.get(VARIABLE) == "mps":
            problems.append(Problem(where, "is not supported on this device", quantized, f"{VARIABLE} cpu or cuda"))
    arguments = values.finetuning_config.training_args.to_transformers()
    if arguments.get("use_liger_kernel") and importlib.util.find_spec("liger_kernel") is None:
        where = "finetuning_config.training_args.use_liger_kernel"
        problems.append(Problem(where, "needs the package liger-kernel, which is not installed", "true"))
    return problems


def _arguments(values: FinetuneValues) -> list[Problem]:
    arguments = values.finetuning_config.training_args.to_transformers()
    refused = {
        "auto_find_batch_size": "would change the planned steps; set batchsize_conf",
        "save_only_model": "would leave checkpoints that can't be resumed from",
        "ignore_data_skip": "would repeat rows after a resume",
        "parallelism_config": "is not supported by this version",
    }
    problems = [
        Problem(f"finetuning_config.training_args.{name}", why, str(arguments[name]))
        for name, why in refused.items()
        if arguments.get(name)
    ]
    optim = str(arguments["optim"])
    if optim.endswith(("lomo", "_layerwise")):
        where = "finetuning_config.training_args.optim"
        problems.append(Problem(where, "steps inside the backward pass, so a checkpoint can't hold its state", optim))
    if arguments.get("train_sampling_strategy") == "batch_rebalance":
        where = "finetuning_config.training_args.train_sampling_strategy"
        problems.append(
            Problem(
                where,
                "has no effect, since rows are never padded",
                "batch_rebalance",
                "random, sequential or group_by_length",
            )
        )
    return problems
