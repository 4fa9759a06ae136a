"""The inputs of a trainer: the base model, its adapter, the encoded rows, and the correct form of rows for them.

Every process builds the same. The main process takes the decisions that only one may take (`for_all`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments, set_seed

from tuneyard.errors import ConflictError, InvalidValuesError, Problem
from tuneyard.job import ROWS, WHERE, Precision, precision_of, shards
from tuneyard.models import outline_model, reason_of, unusable
from tuneyard.network import (
    EncodedRows,
    Form,
    RowForm,
    add_adapter,
    available_attention,
    config_arguments,
    disable_dropout,
    flatten,
    hold_trained_in,
    load_base,
    moved,
    prove_form,
)
from tuneyard.progress import Notify, progress_bar
from tuneyard.train.exchange import broadcast, gather
from tuneyard.train.preferences import PairedRows, reference_log_probs
from tuneyard.train.prepare import Prepared
from tuneyard.values import FinetuneValues


@dataclass(frozen=True)
class Assembly:
    """A model and its data.

    Attributes:
        model: The base model, or a PEFT model around it.
        rows: The conversations or preferences to train on.
        validation: Those to evaluate on, or None.
        form: How the conversations of a micro-batch go through the model.
        published_types: The published type of each weight, if it differs from the trained one.
    """

    model: Any
    rows: EncodedRows | PairedRows
    validation: EncodedRows | PairedRows | None
    form: RowForm
    published_types: Mapping[str, torch.dtype]


def assemble(
    values: FinetuneValues, prepared: Prepared, arguments: TrainingArguments, *, main: bool, notify: Notify
) -> Assembly | None:
    """Load the model, check which form of rows is correct for it, and add the adapter.

    Args:
        values: The resolved values.
        prepared: The result of `prepare`.
        arguments: Changed where the model takes one conversation at a time.
        main: Whether this is the main process.
        notify: Called with each deviation from the configuration.

    Returns:
        The trainer's inputs; None if the main process has failed, which reports why.

    Raises:
        InvalidDataError: In the main process, where the model can't be trained.
    """
    config = values.finetuning_config
    set_seed(arguments.seed)  # an adapter's first weights are random
    base, key = Path(prepared.base_folder), prepared.inputs.base.key
    adapts = config.peft_conf.peft_type != "NO_PEFT"
    precision = precision_of(values, prepared.stored_dtype, prepared.device)
    dtype = precision.frozen if adapts else precision.trained
    changed = config_arguments(values, base)
    model: Any = load_base(base, config.quant_conf, prepared.device, where=key, dtype=dtype, arguments=changed)
    encoded = EncodedRows(Path(prepared.rows_folder))
    attention = available_attention(config.run_conf.model_args.get("attn_implementation"), prepared.device, notify)

    def prove() -> dict[str, Any]:
        return asdict(prove_form(model, attention, encoded, arguments.device, key))

    facts = for_all(arguments, prove if main else None)
    if facts is None:
        return None
    _check_same_rows(prepared, arguments)
    facts["form"] = Form(facts["form"])  # a string if another process has sent it
    form = RowForm(**facts)
    _set_up(model, form, arguments, prepared.total)
    if form.notice:
        notify(form.notice)
    rows: EncodedRows | PairedRows = encoded
    validation: EncodedRows | PairedRows | None = None
    if prepared.validation_folder:
        validation = EncodedRows(Path(prepared.validation_folder))
    if config.method == "dpo":
        if config.quant_conf.quantization_type == "no-quantization":
            model.to(arguments.device)
        rows = _with_reference(model, encoded, arguments, form, main=main)
        if isinstance(validation, EncodedRows):
            validation = _with_reference(model, validation, arguments, form, main=main)
    if adapts:
        checkpointing = arguments.gradient_checkpointing
        model = add_adapter(model, config.peft_conf, base, gradient_checkpointing=checkpointing)
        hold_trained_in(model, precision.trained)
        if shards(values) is None:
            _try_adapter(model, form, encoded, arguments)
    if config.method == "dpo" and config.preference_args.disable_dropout:
        disable_dropout(model, form.forward, moved(flatten([encoded[0]]), model.device))
    types = {} if adapts else _published_types(base, key, precision, changed)
    return Assembly(model, rows, validation, form, types)


def for_all(arguments: TrainingArguments, decide: Callable[[], dict[str, Any]] | None) -> dict[str, Any] | None:
    """Let the main process decide something, and send the decision to every process.

    Args:
        arguments: With the number of processes.
        decide: Returns the decision as plain JSON values; None in every other process.

    Returns:
        The decision; None if the main process failed.
    """
    decided: dict[str, Any] | None = None
    try:
        decided = decide() if decide else None
    finally:
        if arguments.world_size > 1:
            decided = broadcast(decided)
    return decided


def _check_same_rows(prepared: Prepared, arguments: TrainingArguments) -> None:
    """Check that every node has encoded the same rows: each encodes them itself."""
    mine = prepared.inputs.fingerprint[ROWS]
    first = for_all(arguments, (lambda: {"rows": mine}) if arguments.process_index == 0 else None)
    if first is not None and first["rows"] != mine:
        raise ConflictError(
            "This node encoded different rows than node 0.",
            hint="Start the run again; all nodes need the same image, data and clock.",
        )


def _published_types(
    base: Path, key: str, precision: Precision, arguments: Mapping[str, Any]
) -> dict[str, torch.dtype]:
    if precision.trained == precision.frozen:
        return {}
    # some weights stay float32 in any model
    outline = outline_model(base, where=key, dtype=precision.frozen, **arguments)
    return {name: weight.dtype for name, weight in outline.state_dict().items()}


def _set_up(model: Any, form: RowForm, arguments: TrainingArguments, total: int) -> None:
    if form.attention:
        model.set_attn_implementation(form.attention)
    if form.form == Form.SINGLE:
        arguments.per_device_train_batch_size = 1
        arguments.gradient_accumulation_steps = total // arguments.world_size


def _try_adapter(model: Any, form: RowForm, rows: EncodedRows, arguments: TrainingArguments) -> None:
    """Compute a short row once with the adapter: the model is checked without it, so a failure is the adapter's."""
    shortest = min(range(len(rows)), key=rows.lengths.__getitem__)
    device, autocast = arguments.device, _autocast_type(arguments)
    try:
        if not getattr(model, "is_quantized", False):
            model.to(device)
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
            torch.no_grad(),
        ):
            form.forward(model, moved(flatten([rows[shortest]]), device))
    except torch.OutOfMemoryError:
        raise
    except unusable() as error:
        problem = Problem(WHERE, f"make a model whose forward pass fails: {reason_of(error)}")
        hint = "Change them. Nothing has been trained yet."
        raise InvalidValuesError(f"{problem}", hint=hint, problems=[problem]) from error


def _autocast_type(arguments: TrainingArguments) -> torch.dtype | None:
    return torch.bfloat16 if arguments.bf16 else torch.float16 if arguments.fp16 else None


def _with_reference(
    base: Any, rows: EncodedRows, arguments: TrainingArguments, form: RowForm, *, main: bool
) -> PairedRows:
    """Pair up preferences, with the log-probabilities of their answers under the base without an adapter."""
    pairs = PairedRows(rows)
    autocast = _autocast_type(arguments)
    mine = range(arguments.process_index, len(pairs), arguments.world_size)
    with progress_bar("Computing the reference", len(mine)) if main else nullcontext(_count_nothing) as advance:
        found = list(reference_log_probs(base, pairs, mine, forward=form.forward, autocast=autocast, advance=advance))
    shares = gather(found) if arguments.world_size > 1 else [found]
    reference = np.zeros((len(pairs), 2), np.float32)
    for index, of_answers in (one for share in shares for one in share):
        reference[index] = of_answers
    return PairedRows(rows, reference)


def _count_nothing(done: float) -> None:
    del done
