"""Tries the values on the libraries, with settings alone, before a weight is read or a device is used.

A library reports a missing argument, a package that is not installed or a wrong type only when it is
used. So each is used here once: the config with `model_args`, an attention implementation on a model of one small
layer, the optimizer and the schedule on two weights, each tracker's callback. Training does this first, and `plan` too.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from transformers import (
    AttentionInterface,
    AutoConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.optimization import get_scheduler

from tuneyard.device import Device
from tuneyard.errors import InvalidDataError, InvalidValuesError, Problem
from tuneyard.models import IDENTITY, OF_THE_LOADER, outline_model, reason_of, unusable
from tuneyard.network.model import add_adapter
from tuneyard.network.private import choose_attention
from tuneyard.network.trackers import tracker_problems
from tuneyard.values import FinetuneValues, default_of

_CONFIG = "finetuning_config."
_ARGUMENTS = f"{_CONFIG}training_args."
_MODEL_ARGS = f"{_CONFIG}run_conf.model_args"
_CHOSEN_HERE = ("dtype", "attn_implementation")
"""Arguments of `from_pretrained` that Tuneyard decides about: `precision` and `isolation`."""
_KNOWN_ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_OF_WEIGHTS = ("params", "model", "optimizer_dict")
_FEW = 8
_STEPS = 100


def rehearse(values: FinetuneValues, folder: Path, device: Device, *, here: bool = True) -> None:
    """Try the values on the libraries.

    Args:
        values: The resolved values.
        folder: The base model's folder, or only its settings.
        device: The device of the training.
        here: Whether that is in this environment; otherwise its packages and its device are not checked.

    Raises:
        InvalidValuesError: With every value that a library refuses.
    """
    with _environment(values):
        problems = list(_of_model_args(values, folder))
        problems += _of_attention(values, device, here=here)
        problems += _of_arguments(values, device, here=here)
    if problems:
        raise InvalidValuesError(
            f"{len(problems)} value(s) are refused by the training libraries: {problems[0]}.",
            hint="Change each to one that is allowed. Nothing has started.",
            problems=problems,
        )


@contextmanager
def _environment(values: FinetuneValues) -> Generator[None]:
    """Set the variables of the training process for the duration of the `with` block: libraries set some too."""
    before = dict(os.environ)
    os.environ.update({name: text for name, text in values.env.items() if isinstance(text, str)})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def model_arguments(values: FinetuneValues, folder: Path) -> dict[str, Any]:
    """Return `model_args` with whole numbers as the config's own types have them: YAML, Helm and JSON write 1.0 as 1.

    Args:
        values: The resolved values.
        folder: The base model's folder, or only its settings.
    """
    given = dict(values.finetuning_config.run_conf.model_args)
    kinds = _number_kinds(folder)
    for name, value in given.items():
        wanted = kinds.get(name)
        if type(value) is int and wanted == "float":
            given[name] = float(value)
        elif type(value) is float and wanted == "int" and value.is_integer():
            given[name] = int(value)
    return given


def config_arguments(values: FinetuneValues, folder: Path) -> dict[str, Any]:
    """Return the entries of `model_args` that `from_pretrained` is given as they are, as `model_arguments` has them.

    Args:
        values: The resolved values.
        folder: The base model's folder, or only its settings.
    """
    return {name: value for name, value in model_arguments(values, folder).items() if name not in _CHOSEN_HERE}


def configured_outline(values: FinetuneValues, folder: Path, **keywords: Any) -> PreTrainedModel:
    """Build the base model with `model_args` on the meta device and compare it with what its files hold.

    Args:
        values: The resolved values.
        folder: The base model's folder, or its outline.
        keywords: More arguments of `outline_model`.

    Returns:
        The model without weights.

    Raises:
        InvalidValuesError: The model is whole, but not with these `model_args`.
        IncompleteModelError, InvalidDataError: As `outline_model`, whatever `model_args` are.
    """
    where, changed = values.basemodel, config_arguments(values, folder)
    try:
        return outline_model(folder, where=where, **changed, **keywords)
    except InvalidDataError as error:
        if not changed:
            raise
        outline_model(folder, where=where, **keywords)
        names = ", ".join(changed)
        raise InvalidValuesError(
            f"{_MODEL_ARGS} ({names}) do not fit the model {where!r}. {error.message}",
            hint="Remove the entries that change the shapes or the number of its weights. Nothing has started.",
            problems=[Problem(f"{_MODEL_ARGS}.{name}", "may not fit", str(changed[name])[:80]) for name in changed],
        ) from error


def changed_entries(values: FinetuneValues, folder: Path) -> dict[str, Any]:
    """Return the entries of `model_args` that differ from the base's config.

    Args:
        values: The resolved values.
        folder: The base model's folder, whose config transformers can read.
    """
    given = {name: value for name, value in model_arguments(values, folder).items() if name not in OF_THE_LOADER}
    if not given:
        return {}
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    known = config.to_dict()
    return {name: value for name, value in given.items() if name not in known or known[name] != value}


def rehearse_adapter(values: FinetuneValues, outline: PreTrainedModel, folder: Path) -> None:
    """Add the adapter to a model without weights, as PEFT will add it to the model.

    Args:
        values: The resolved values.
        outline: The base model on the meta device; it is adapted.
        folder: The base model's folder, or only its settings.

    Raises:
        InvalidValuesError: The adapter's targets match nothing, or PEFT refuses.
    """
    conf = values.finetuning_config.peft_conf
    if conf.peft_type != "NO_PEFT":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they appear when the model is adapted
            add_adapter(outline, conf, folder, gradient_checkpointing=False)


def check_rows(
    model: PreTrainedModel,
    lengths: Sequence[int],
    largest_ids: Sequence[int],
    places: Callable[[int], str],
    *,
    virtual_tokens: int = 0,
) -> None:
    """Check that a model has an embedding for each token of the encoded rows, and a position.

    Args:
        model: The base model, or its outline.
        lengths: Tokens of each row.
        largest_ids: The largest token id of each row.
        places: Names a row by its number.
        virtual_tokens: Positions that a trained prompt takes before each row.

    Raises:
        InvalidDataError: With the rows that exceed it.
    """
    table: Any = model.get_input_embeddings()
    embeddings = int(table.weight.shape[0])
    beyond = [number for number, token in enumerate(largest_ids) if token >= embeddings]
    if beyond:
        token = max(largest_ids[number] for number in beyond)
        raise InvalidDataError(
            f"{len(beyond)} row(s) have tokens without an embedding in the model: id {token} of {embeddings}.",
            hint="Deliver the model with its own tokenizer.",
            problems=[Problem(places(number), "has a token beyond the embeddings") for number in beyond[:_FEW]],
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or isinstance(positions, bool) or positions < 1:
        return
    room = positions - virtual_tokens
    long = [number for number, length in enumerate(lengths) if length > room]
    if long:
        raise InvalidDataError(
            f"{len(long)} row(s) are longer than the model's {room} positions.",
            hint=f"Use --set {_CONFIG}sft_args.max_seq_length={room} (dpo: dpo_args.max_length), with "
            "data_conf.rows.overlong=drop or truncate. A model with rotary embeddings accepts more positions with "
            "model_args.max_position_embeddings.",
            problems=[Problem(places(number), f"has {lengths[number]} tokens") for number in long[:_FEW]],
        )


def _number_kinds(folder: Path) -> dict[str, str]:
    """Return the number types of each entry of the base's config: `float`, `int` or `float,int`."""
    try:
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        fields = dataclasses.fields(CONFIG_MAPPING[kind])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {field.name: ",".join(sorted(set(re.findall(r"\b(?:int|float)\b", str(field.type))))) for field in fields}


def _of_model_args(values: FinetuneValues, folder: Path) -> Iterator[Problem]:
    given = config_arguments(values, folder)
    try:
        document = json.loads((folder / "config.json").read_bytes())
        kind = CONFIG_MAPPING[document.get("model_type")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return  # loading the model reports it
    for name, value in given.items():
        if name in OF_THE_LOADER:
            continue  # an outline reports it
        if name in IDENTITY and value != document.get(name, getattr(kind, name, None)):
            yield Problem(f"{_MODEL_ARGS}.{name}", "describes the delivered model and can't be changed")
            continue
        if not (name in document or any(field.name == name for field in dataclasses.fields(kind))):
            what = f"is not a setting of {kind.__name__}"
            yield Problem(f"{_MODEL_ARGS}.{name}", what, str(value)[:80], "entries of the model's config.json")
            continue
        try:
            kind.from_dict(copy.deepcopy({**document, name: value}))  # it changes maps in its argument
        except unusable() as error:
            yield Problem(f"{_MODEL_ARGS}.{name}", f"is refused: {reason_of(error)}", str(value)[:80])


def _of_attention(values: FinetuneValues, device: Device, *, here: bool) -> Iterator[Problem]:
    given = values.finetuning_config.run_conf.model_args.get("attn_implementation")
    if given is None:
        return
    where = f"{_MODEL_ARGS}.attn_implementation"
    known = sorted({*_KNOWN_ATTENTION, *(str(name) for name in AttentionInterface().keys())})  # noqa: SIM118 - a mapping of its own
    if not isinstance(given, str) or given not in known:
        yield Problem(where, "is not an attention implementation", str(given)[:80], ", ".join(_KNOWN_ATTENTION))
        return
    if not here or device != "cpu" or given.startswith("flash_attention"):  # it has an exact equivalent here
        return
    try:
        _step_of_small_model(attention=given)
    except unusable() as error:
        yield Problem(where, f"can't train on the CPU: {reason_of(error)}", given, "sdpa, eager")


def _step_of_small_model(attention: str = "eager", checkpointing: dict[str, Any] | None = None) -> None:
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1}
    size: dict[str, Any] = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, **heads}
    config: Any = LlamaConfig(**size, max_position_embeddings=32)
    choose_attention(config, attention)
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    if checkpointing is not None:
        model.gradient_checkpointing_enable(checkpointing)
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()


def _of_arguments(values: FinetuneValues, device: Device, *, here: bool) -> Iterator[Problem]:
    given: dict[str, Any] = values.finetuning_config.training_args.to_transformers() | {
        "report_to": list(values.trackers),
        "output_dir": tempfile.gettempdir(),
        "use_cpu": True,
        "fp16": False,
    }
    if not here or device != "cpu":
        given |= {"bf16": False, "tf32": None}
    try:
        arguments: Any = TrainingArguments(**given)
    except unusable() as error:
        yield Problem(f"{_CONFIG}training_args", f"are refused by transformers: {reason_of(error)}")
        return
    try:
        _compile(arguments)
    except unusable() as error:
        given = {name: getattr(arguments, name) for name in ("torch_compile_backend", "torch_compile_mode")}
        named = {name: value for name, value in given.items() if value not in (None, "inductor")}
        where = next(iter(named), "torch_compile")
        yield Problem(f"{_ARGUMENTS}{where}", f"can't be used: {reason_of(error)}", str(named.get(where, "true")))
    if arguments.gradient_checkpointing and (kwargs := arguments.gradient_checkpointing_kwargs):
        try:
            _step_of_small_model(checkpointing=kwargs)
        except unusable() as error:
            where = f"{_ARGUMENTS}gradient_checkpointing_kwargs"
            yield Problem(where, f"can't be used: {reason_of(error)}", str(kwargs)[:80])
    try:
        _step_of_optimizer(arguments, device)
    except unusable() as error:
        if here or not _lacks_package(error):
            with_args = f" with optim_args {arguments.optim_args}" if arguments.optim_args else ""
            yield Problem(f"{_ARGUMENTS}optim", f"can't be used{with_args}: {reason_of(error)}", arguments.optim.value)
    else:
        yield from _of_idle_optimizer_arguments(arguments)
    try:
        _steps_of_schedule(arguments)
    except unusable() as error:
        kwargs = f" with lr_scheduler_kwargs {arguments.lr_scheduler_kwargs}" if arguments.lr_scheduler_kwargs else ""
        what = f"can't be used{kwargs}: {reason_of(error)}"
        yield Problem(f"{_ARGUMENTS}lr_scheduler_type", what, str(arguments.lr_scheduler_type.value))
    if here:
        yield from tracker_problems(values, arguments.report_to)


def _lacks_package(error: BaseException) -> bool:
    """Whether a package is not installed; for optimizers, transformers reports that by a message only."""
    return isinstance(error, ImportError) or "install" in str(error)


def _compile(arguments: Any) -> None:
    """Wrap a layer as accelerate wraps the model; nothing is compiled before it is called."""
    if arguments.torch_compile or arguments.torch_compile_backend or arguments.torch_compile_mode:
        plugin = TorchDynamoPlugin(backend=arguments.torch_compile_backend, mode=arguments.torch_compile_mode)
        torch.compile(torch.nn.Linear(1, 1), **plugin.to_kwargs())


def _of_idle_optimizer_arguments(arguments: Any) -> Iterator[Problem]:
    """Find arguments that this optimizer ignores: without them it is built from the same."""
    made = _optimizer_inputs(arguments)
    for name in ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_target_modules"):
        value = getattr(arguments, name)
        if value != default_of(name) and _optimizer_inputs(arguments, **{name: default_of(name)}) == made:
            yield Problem(f"{_ARGUMENTS}{name}", f"has no effect with optim {arguments.optim.value}", str(value))
    items = (arguments.optim_args or "").replace(" ", "").split(",")
    for item in filter(None, items):
        others = ",".join(other for other in items if other != item)
        if _optimizer_inputs(arguments, optim_args=others or None) == made:
            yield Problem(f"{_ARGUMENTS}optim_args", f"has no effect with optim {arguments.optim.value}", item)


def _optimizer_inputs(arguments: Any, **changes: Any) -> Any:
    """Return what transformers builds an optimizer from, except weights; its error if it refuses."""
    changed = copy.copy(arguments)
    for name, value in changes.items():
        setattr(changed, name, value)
    weights: Any = torch.nn.ModuleDict({"weight": torch.nn.Linear(8, 8)})
    try:
        kind, keywords = Trainer.get_optimizer_cls_and_kwargs(changed, weights)
    except unusable() as error:
        return str(error)
    return kind, {name: value for name, value in keywords.items() if name not in _OF_WEIGHTS}


def _step_of_optimizer(arguments: Any, device: Device) -> None:
    """Build the optimizer, and take a step if this process may use the device: on the CPU."""
    weights: Any = torch.nn.ModuleDict({"weight": torch.nn.Linear(8, 8), "norm": torch.nn.LayerNorm(8)})
    for name in arguments.optim_target_modules if isinstance(arguments.optim_target_modules, list) else ():
        weights[name.replace(".", "_")] = torch.nn.Linear(8, 8)
    kind, keywords = Trainer.get_optimizer_cls_and_kwargs(arguments, weights)
    parameters = next((keywords.pop(name) for name in _OF_WEIGHTS if name in keywords), None)
    optimizer = kind(weights.parameters() if parameters is None else parameters, **keywords)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for weight in weights.parameters():
        weight.grad = torch.zeros_like(weight)
    if device == "cpu":
        optimizer.step()


def _steps_of_schedule(arguments: Any) -> None:
    steps = arguments.max_steps if arguments.max_steps > 0 else _STEPS
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    schedule: Any = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    needs_metric = arguments.lr_scheduler_type.value in ("reduce_lr_on_plateau", "greedy")
    optimizer.step()
    for _ in range(min(steps, _STEPS)):
        schedule.step(*([1.0] if needs_metric else []))
    rate: Any = optimizer.param_groups[0]["lr"]
    if not (isinstance(rate, int | float) and math.isfinite(rate)):
        raise ValueError(f"its learning rate is {rate}")
