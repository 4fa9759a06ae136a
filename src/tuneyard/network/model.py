"""Load the base model from its verified folder and add the adapter, as configured."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import IA3Config, LoraConfig, PeftConfig, PeftModel, PromptTuningConfig, VeraConfig, get_peft_model
from transformers import BitsAndBytesConfig, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tuneyard.device import Device
from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.job import WHERE, refuse_unmatched
from tuneyard.models import load_model
from tuneyard.network.prompts import FlatPromptModel
from tuneyard.progress import Notify
from tuneyard.values import PeftConf, QuantConf

CONFIGS: Mapping[str, type[PeftConfig]] = {"LORA": LoraConfig, "VERA": VeraConfig, "IA3": IA3Config}
"""Adapters inside the base's modules; a prompt precedes them."""


def quiet_libraries() -> None:
    """Silence transformers' own bars and notices on standard error, where the run's log goes."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def load_base(
    folder: Path, quantized: QuantConf, device: Device, *, where: str, dtype: str, arguments: Mapping[str, Any]
) -> PreTrainedModel:
    """Load a causal language model for training.

    Args:
        folder: The verified model's folder.
        quantized: How its frozen weights are quantized, if at all.
        device: The device of the training; the model is loaded on the CPU, and a quantized one there.
        where: The model's key in the store, for messages.
        dtype: The type of its weights, by torch's name.
        arguments: Entries of its config to override.

    Returns:
        The model, with the library's own choice of attention.

    Raises:
        IncompleteModelError: Its files lack a weight, hold one that it hasn't, or one of another shape.
        InvalidDataError: Its files are intact, but transformers can't load them without custom code.
    """
    keywords = {**arguments, "dtype": dtype}
    if quantized.quantization_type != "no-quantization":
        keywords["quantization_config"] = quantization_config(quantized)
        keywords["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else device}
    model = load_model(folder, where=where, **keywords)
    model.config.use_cache = False
    make_savable(model)
    return model


def quantization_config(conf: QuantConf) -> BitsAndBytesConfig:
    """Return `quant_conf` as transformers' configuration.

    Args:
        conf: With a type of quantization.
    """
    return BitsAndBytesConfig(**conf.model_dump(exclude={"quantization_type"}))


def make_savable(model: PreTrainedModel) -> None:
    """Make a model savable whose generation settings transformers reads, but refuses to write.

    Many published models have such settings (a temperature without `do_sample`). What serving takes gets the base's own
    file (`train.final.write_final`), so nothing of them is lost.

    Args:
        model: Just loaded.
    """
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig()


def available_attention(configured: str | None, device: Device, notify: Notify) -> str | None:
    """Return the configured attention implementation, or None if it is not available and the library's own is as exact.

    Args:
        configured: `model_args.attn_implementation`.
        device: The device of the training.
        notify: Called with the replacement.
    """
    flash = configured is not None and configured.startswith("flash_attention")
    if flash and (device != "cuda" or importlib.util.find_spec("flash_attn") is None):
        notify(f"attn_implementation '{configured}' is not available here: torch's SDPA computes the same attention")
        return None
    return configured


def add_adapter(model: PreTrainedModel, conf: PeftConf, folder: Path, *, gradient_checkpointing: bool) -> PeftModel:
    """Freeze the base and add an adapter; on the meta device too, where no weight is made.

    Args:
        model: The base.
        conf: The kind of adapter and the arguments of PEFT's configuration.
        folder: The verified base model's folder, whose tokenizer encodes the initial text of a prompt.
        gradient_checkpointing: Whether activations will be recomputed, which needs inputs with gradients.

    Returns:
        The model to train; adapter weights are float32 where the base has less precision.

    Raises:
        InvalidValuesError: If an entry of `target_modules` or its kin matches no module, or PEFT refuses.
    """
    kwargs = dict(conf.peft_kwargs)
    modules = dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, torch.nn.Linear | Conv1D)]
    refuse_unmatched(list(modules), kwargs, offered=linear)
    if gradient_checkpointing:
        model.enable_input_require_grads()
    try:
        with torch.device("meta") if model.device.type == "meta" else nullcontext():
            return _adapted(model, conf.peft_type, kwargs, folder)
    except (ValueError, TypeError, LookupError, AttributeError, ImportError, NotImplementedError) as error:
        problem = Problem(WHERE, f"is refused by PEFT for {type(model).__name__}: {error}")
        offered = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise InvalidValuesError(
            f"{problem}", hint=f"Change them. The model's linear layers are {offered}.", problems=[problem]
        ) from error


def _adapted(model: PreTrainedModel, kind: str, kwargs: dict[str, Any], folder: Path) -> PeftModel:
    if kind == "PROMPT_TUNING":
        if kwargs.get("prompt_tuning_init") == "TEXT":
            kwargs["tokenizer_name_or_path"] = str(folder)
        return FlatPromptModel(model, PromptTuningConfig(task_type="CAUSAL_LM", **kwargs))
    adapted = get_peft_model(model, CONFIGS[kind](task_type="CAUSAL_LM", **kwargs))
    assert isinstance(adapted, PeftModel)
    return adapted


def hold_trained_in(model: torch.nn.Module, dtype: str) -> None:
    """Hold the weights that are trained in a type of their own.

    Args:
        model: With an adapter or without.
        dtype: The type, by torch's name.
    """
    for weight in model.parameters():
        if weight.requires_grad and weight.dtype != getattr(torch, dtype):
            weight.data = weight.data.to(getattr(torch, dtype))


def name_base(folder: Path, base: str) -> None:
    """Name the base model in a saved adapter by its key, not by the folder it was loaded from on this machine.

    Args:
        folder: A folder that `save_pretrained` wrote; nothing happens where it holds no adapter.
        base: The base model's key in the store.
    """
    path = folder / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base
        if config.get("tokenizer_name_or_path"):
            config["tokenizer_name_or_path"] = base
        path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        # PEFT's own card names the folder too; ours is written at the end.
        (folder / "README.md").unlink(missing_ok=True)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Count all parameters of a model and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)
