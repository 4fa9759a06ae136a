"""How a run's processes share its work: `distributedType`, or accelerate's own configuration. Loads no torch.

Two ways are supported: every process holds the whole model (data parallel), or a shard of its weights, gradients and
optimizer states (PyTorch's FSDP 2). All others are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from tuneyard.errors import Problem
from tuneyard.values import FinetuneValues

AS_DATA_PARALLEL = ("auto-deepspeed-stage1",)
"""Ways to distribute with the same losses as data parallel training: they only spread the optimizer's memory."""
CUSTOM = "custom-accelerate-config"
WHERE = "customAccelerateConfig"
_SUPPORTED = ("auto-single-process", "auto-ddp", "auto-fsdp", CUSTOM, *AS_DATA_PARALLEL)
_PARALLEL = ("NO", "MULTI_GPU", "MULTI_CPU")
# Keys that accelerate's questionnaire writes and that have no effect here, each with the accepted values.
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "compute_environment": ("LOCAL_MACHINE",),
    "debug": (False,),
    "downcast_bf16": ("no", False),
    "enable_cpu_affinity": (False,),
    "main_training_function": ("main",),
    "rdzv_backend": ("static", "c10d"),
    "same_network": (True,),
    "tpu_use_cluster": (False,),
    "tpu_use_sudo": (False,),
    "tpu_env": ([],),
    "machine_rank": (0,),
    "use_cpu": (False, True),
}
_OPTIONS: Mapping[str, tuple[Any, ...]] = {
    "version": (2,),
    "auto_wrap_policy": ("TRANSFORMER_BASED_WRAP", "NO_WRAP"),
    "transformer_layer_cls_to_wrap": (),
    "reshard_after_forward": (True, False),
    "state_dict_type": ("FULL_STATE_DICT",),
    "cpu_ram_efficient_loading": (False,),
    "activation_checkpointing": (True, False),
    "offload_params": (False,),
}
"""FSDP's options and their supported values; an empty tuple for any."""


def shards(values: FinetuneValues) -> dict[str, Any] | None:
    """Return FSDP's options if the weights are sharded; None if each process holds them all.

    Args:
        values: The resolved values.
    """
    if values.processes == 1:
        return None
    if values.distributedType == "auto-fsdp":
        return {"version": 2}
    config: Mapping[str, Any] = values.customAccelerateConfig or {}
    if values.distributedType != CUSTOM or config.get("distributed_type") != "FSDP":
        return None
    given = {name.removeprefix("fsdp_"): value for name, value in _map(config.get("fsdp_config")).items()}
    return {"version": 2, **{name: value for name, value in given.items() if name != "offload_params"}}


def unsupported(values: FinetuneValues) -> list[Problem]:
    """List the unsupported settings of the distribution."""
    if values.distributedType not in _SUPPORTED:
        return [_problem("distributedType", values.distributedType, _SUPPORTED)]
    problems = _of_config(values) if values.distributedType == CUSTOM else []
    return problems if shards(values) is None else problems + _of_shards(values)


def _of_config(values: FinetuneValues) -> list[Problem]:
    config = dict(values.customAccelerateConfig or {})
    kind = str(config.pop("distributed_type", "NO"))
    options = _map(config.pop("fsdp_config", None))
    expected = {"num_processes": values.processes, "num_machines": values.nodes, "mixed_precision": _precision(values)}
    known = (*_PARALLEL, "FSDP")
    problems = [] if kind in known else [_problem(f"{WHERE}.distributed_type", kind, known)]
    for name, wanted in expected.items():
        if (given := config.pop(name, wanted)) != wanted:
            problems.append(Problem(f"{WHERE}.{name}", "contradicts the other values", str(given), str(wanted)))
    for name, given in config.items():
        if given not in _WITHOUT_EFFECT.get(name, ()):
            problems.append(_problem(f"{WHERE}.{name}", given, _WITHOUT_EFFECT.get(name, ())))
    if options and kind != "FSDP":
        problems.append(Problem(f"{WHERE}.fsdp_config", f"has no effect with distributed_type {kind}", allowed="FSDP"))
    for name, given in options.items():
        option = name.removeprefix("fsdp_")
        allowed = _OPTIONS.get(option)
        if allowed is None or (allowed and given not in allowed):
            problems.append(_problem(f"{WHERE}.fsdp_config.{name}", given, allowed or ()))
    return problems


def _of_shards(values: FinetuneValues) -> list[Problem]:
    """List what is not supported with sharded weights."""
    config, problems = values.finetuning_config, list[Problem]()
    if config.peft_conf.peft_type != "NO_PEFT":
        kind = config.peft_conf.peft_type
        what = "is not supported with sharded weights (FSDP)"
        allowed = "NO_PEFT, or distributedType auto-ddp"
        problems.append(Problem("finetuning_config.peft_conf.peft_type", what, kind, allowed))
    if config.method != "sft":
        what = "is not supported with sharded weights (FSDP)"
        problems.append(Problem("finetuning_config.method", what, config.method, "sft, or distributedType auto-ddp"))
    if values.nodes > 1:
        problems.append(Problem("nodes", "can't shard the weights (FSDP)", str(values.nodes), "1"))
    if config.training_args.fp16:
        problems.append(Problem("finetuning_config.training_args.fp16", "is not supported with FSDP", "true", "bf16"))
    return problems


def _precision(values: FinetuneValues) -> str:
    args = values.finetuning_config.training_args
    return "bf16" if args.bf16 else "fp16" if args.fp16 else "no"


def _map(given: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", given) if isinstance(given, dict) else {}


def _problem(where: str, value: Any, allowed: tuple[Any, ...]) -> Problem:
    return Problem(where, "is not supported by this version", str(value), " or ".join(map(str, allowed)))
