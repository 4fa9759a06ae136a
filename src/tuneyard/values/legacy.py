"""Old keys: their current equivalent, or why they are refused. The one place for it.

transformers 5 dropped many arguments that files written for transformers 4 still contain. An old key is converted if
the current library can do exactly the same, ignored with a notice if it has no effect here, and refused with the reason
otherwise. The checks of current arguments are in `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

from pydantic import ValidationInfo, model_validator

from tuneyard.values.base import Broken, Values, notify, refuse


@dataclass(frozen=True, slots=True)
class Renamed:
    """The same meaning under another name."""

    new: str


@dataclass(frozen=True, slots=True)
class Converted:
    """The same meaning with other keys: `keys(value)` returns them; none if that is the default anyway."""

    keys: Callable[[Any], dict[str, Any]]
    summary: str


@dataclass(frozen=True, slots=True)
class Idle:
    """No effect here. If `only` is given, other values would have had an effect and are refused."""

    reason: str
    only: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Not supported. A secret is never repeated in the message."""

    reason: str
    suggestion: str = ""
    secret: bool = False


Meaning = Renamed | Converted | Idle | Refused
Spellings = Mapping[str, Meaning]

_FALSE_WORDS = {"false", "no", "off", "0", "none", ""}


def is_true(value: Any) -> bool:
    """Read a truth value as Helm and YAML write it, in any of its spellings."""
    return value.strip().lower() not in _FALSE_WORDS if isinstance(value, str) else bool(value)


def _when_true(**keys: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda value: dict(keys) if is_true(value) else {}


def _ratio_of_steps(value: Any) -> dict[str, Any]:
    """A `warmup_steps` below one is a ratio now; a ratio of 1 can't be expressed that way."""
    return {"warmup_steps": value}


_OFF = (False, None, "", "false", "no", 0, "0")
_PLANNED = "each process plans its own micro-batches"
_NO_TPU = "TPUs are not one of the targets"
_SHARDING = "sharding is chosen by distributedType"

TRAINING_ARGS: Spellings = {
    "adafactor": Converted(_when_true(optim="adafactor"), "optim: adafactor"),
    "dispatch_batches": Idle(_PLANNED, _OFF),
    "evaluate_during_training": Converted(_when_true(eval_strategy="steps"), "eval_strategy: steps"),
    "evaluation_strategy": Renamed("eval_strategy"),
    "fp16_backend": Idle("mixed precision is torch's own", ("auto", "cuda_amp", "cpu_amp", "amp")),
    "fp16_opt_level": Idle("it belonged to apex, and mixed precision is torch's own", ("O1",)),
    "fsdp_min_num_params": Idle(_SHARDING, _OFF),
    "fsdp_transformer_layer_cls_to_wrap": Idle(_SHARDING, _OFF),
    "group_by_length": Converted(
        _when_true(train_sampling_strategy="group_by_length"), "train_sampling_strategy: group_by_length"
    ),
    "half_precision_backend": Idle("mixed precision is torch's own", ("auto", "cuda_amp", "cpu_amp", "amp")),
    "include_inputs_for_metrics": Idle("an evaluation computes losses and keeps no predictions", _OFF),
    "include_tokens_per_second": Converted(
        _when_true(include_num_input_tokens_seen="non_padding"), "include_num_input_tokens_seen: non_padding"
    ),
    "jit_mode_eval": Idle("transformers removed it with TorchScript; use torch_compile instead", _OFF),
    "logging_dir": Idle("TensorBoard's files are kept with the run"),
    "max_length": Refused("the length is a key of sft_args", "sft_args.max_seq_length"),
    "max_seq_length": Refused("the length is a key of sft_args", "sft_args.max_seq_length"),
    "mp_parameters": Idle("it was an option of SageMaker's model parallelism", _OFF),
    "no_cuda": Idle("the device is set by gpuResource (empty for the CPU) and TUNEYARD_DEVICE", _OFF),
    "overwrite_output_dir": Idle(
        "a run never overwrites: it resumes from its newest checkpoint; set another checkpointsRemote to start over"
    ),
    "packing": Refused("conversations are always packed, each with its own attention"),
    "past_index": Idle("transformers removed it", (-1, "-1")),
    "per_gpu_eval_batch_size": Renamed("per_device_eval_batch_size"),
    "per_gpu_train_batch_size": Renamed("per_device_train_batch_size"),
    "push_to_hub_model_id": Refused("results go to checkpointsRemote and nothing is pushed to the Hub"),
    "push_to_hub_organization": Refused("results go to checkpointsRemote and nothing is pushed to the Hub"),
    "push_to_hub_token": Refused("a secret does not belong in values", "hfTokenSecret", secret=True),
    "ray_scope": Idle("it was an option of Ray's hyperparameter search"),
    "save_safetensors": Idle(
        "weights are always saved as safetensors, since loading pickle runs code", (True, "true", 1)
    ),
    "sharded_ddp": Idle(_SHARDING, (*_OFF, [])),
    "split_batches": Idle(_PLANNED, _OFF),
    "torchdynamo": Renamed("torch_compile_backend"),
    "tpu_metrics_debug": Idle(_NO_TPU, _OFF),
    "tpu_num_cores": Idle(_NO_TPU, _OFF),
    "use_ipex": Idle("transformers removed it; torch includes its features", _OFF),
    "use_legacy_prediction_loop": Idle("transformers removed it", _OFF),
    "use_mps_device": Idle("Apple's GPU is used if present"),
    "warmup_ratio": Converted(_ratio_of_steps, "warmup_steps, where a number below 1 is a share of all steps"),
    "xpu_backend": Renamed("ddp_backend"),
}

_DEVICE = "each process has one device, chosen by gpuResource and TUNEYARD_DEVICE"

MODEL_ARGS: Spellings = {
    "device_map": Refused(_DEVICE),
    "load_in_4bit": Idle("quantization is chosen by quant_conf", _OFF),
    "load_in_8bit": Idle("quantization is chosen by quant_conf", _OFF),
    "low_cpu_mem_usage": Idle("models are always loaded that way"),
    "quantization_config": Refused("quantization is chosen by quant_conf", "quant_conf"),
    "resume_download": Idle("loading a model downloads nothing"),
    "token": Refused("a secret does not belong in values", "hfTokenSecret", secret=True),
    "torch_dtype": Renamed("dtype"),
    "use_auth_token": Refused("a secret does not belong in values", "hfTokenSecret", secret=True),
    "use_flash_attention_2": Converted(
        _when_true(attn_implementation="flash_attention_2"), "attn_implementation: flash_attention_2"
    ),
}

SFT_ARGS: Spellings = {
    "max_length": Renamed("max_seq_length"),
    "save_name_if_new_basemodel": Idle("the base model's vocabulary is never extended"),
}

DATA_CONF: Spellings = {
    "padding_side": Idle("rows are packed, so none is padded", ("right",)),
}

DATA_INPUT: Spellings = {
    "data_type": Idle("rows are conversations", ("ChatConversation",)),
}

DATASET: Spellings = {"sampling_weight": Renamed("weight")}

RUN_CONF: Spellings = {
    "determinism": Refused("it is an argument of transformers", "training_args.full_determinism"),
    "final_checkpoint_name": Idle("a run always ends with checkpoint-final", ("checkpoint-final",)),
    "model": Idle("the model is named by basemodel", ("/local_resources/basemodel",)),
    "tokenizer": Refused("the tokenizer is always the base model's, which the server uses too"),
    "use_fast_tokenizer": Idle("fast tokenizers are always used", (True, "true")),
}

INFERENCE: Spellings = {
    "livenessProbe": Converted(lambda value: {"probes": {"liveness": value}}, "probes.liveness"),
    "metadata": Converted(lambda value: dict(value) if isinstance(value, dict) else {"metadata": value}, "labels"),
    "readinessProbe": Converted(lambda value: {"probes": {"readiness": value}}, "probes.readiness"),
    "startupProbe": Converted(lambda value: {"probes": {"startup": value}}, "probes.startup"),
}


def old_spellings(key: str) -> list[str]:
    """Return the old names of a current key, in any map."""
    tables = (TRAINING_ARGS, MODEL_ARGS, SFT_ARGS, DATA_CONF, DATA_INPUT, DATASET, RUN_CONF, INFERENCE)
    return [old for table in tables for old, meaning in table.items() if _current_key(meaning) == key]


def _current_key(meaning: Meaning) -> str:
    match meaning:
        case Renamed(new):
            return new
        case Converted(_, summary):
            return summary.replace(":", " ").replace(".", " ").replace(",", " ").split()[0]
        case _:
            return ""


def translate(
    table: Spellings, given: Mapping[str, Any], info: ValidationInfo, *, under: str = "", label: str = ""
) -> tuple[dict[str, Any], list[Broken]]:
    """Convert a map's old keys to current ones, with a notice for each.

    Args:
        table: The old keys.
        given: The map as given. A null counts as absent.
        info: pydantic's validation info, for the notices.
        under: The key of the map, if the validator is that of the enclosing model.
        label: The map's name in notices.

    Returns:
        A new map without any old key, and every old key that is refused.
    """
    current = {key: value for key, value in given.items() if key not in table}
    broken: list[Broken] = []
    for old, value in given.items():
        if old not in table or value is None:
            continue
        outcome = _read(old, value, table[old], current)
        if isinstance(outcome, Broken):
            broken.append(replace(outcome, where=f"{under}.{old}") if under else outcome)
        else:
            notify(info, f"{label or under}.{outcome}" if label or under else outcome)
    return current, broken


def _read(old: str, value: Any, meaning: Meaning, current: dict[str, Any]) -> Broken | str:
    match meaning:
        case Refused(reason, suggestion, secret):
            shown = "" if secret else _short(value)
            return Broken(old, f"is not accepted here: {reason}", value=shown, suggestion=suggestion)
        case Idle(reason, only):
            if only is not None and value not in only:
                words = ", ".join(_short(word) for word in only[:1] if not isinstance(word, list))
                return Broken(old, f"is not accepted here: {reason}", value=_short(value), allowed=words)
            return f"{old} has no effect here: {reason}"
        case Renamed(new):
            keys, summary = {new: value}, new
        case Converted(convert, summary):
            keys = convert(value)
    return _add(old, value, keys, summary, current)


def _add(old: str, value: Any, keys: dict[str, Any], summary: str, current: dict[str, Any]) -> Broken | str:
    """Add the current keys, unless they are set to something else."""
    for new, meant in keys.items():
        present = current.get(new)
        if isinstance(present, dict) and isinstance(meant, dict):
            current[new] = {**present, **meant}
        elif old == "warmup_ratio" and present is not None:
            # transformers 4's own rule: steps win over the ratio, unless they are 0
            current[new] = present if is_true(present) else meant
        elif present is None:
            current[new] = meant
        elif present != meant:
            return Broken(old, f"contradicts {new}, its current name", value=_short(value), about=(new,))
    return f"{old} is read as {summary}"


def _short(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


class AcceptsOldKeys(Values):
    """A map that also understands the spellings of earlier files."""

    spellings: ClassVar[Spellings] = {}

    @model_validator(mode="before")
    @classmethod
    def old_spellings_are_translated(cls, given: Any, info: ValidationInfo) -> Any:
        """Read what earlier files call otherwise."""
        if not isinstance(given, dict):
            return given
        return refuse(*translate(cls.spellings, cast("dict[str, Any]", given), info), info)
