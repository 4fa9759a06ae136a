"""Arguments of transformers' Trainer without an effect: never (refused), or not with the other values (a notice).

Tuneyard's trainer plans its own micro-batches, evaluates only losses, and publishes checkpoints to a bucket. The
`TrainingArguments` for other ways of doing these would be ignored silently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tuneyard.values.base import Broken
from tuneyard.values.training_args import TrainingFields

_RESULTS = "results go to checkpointsRemote and nothing is pushed to the Hub"
_LOSSES = "an evaluation computes losses and keeps no predictions"
_LOG = "a run has its own log, and metrics.jsonl has its numbers"
_TRACKIO = "Trackio's spaces are on the Hub, and nothing is pushed there"

NEVER: Mapping[str, str] = {
    "accelerator_config": "only its gradient_accumulation_kwargs.sync_each_batch has an effect",
    "batch_eval_metrics": _LOSSES,
    "bf16_full_eval": "an evaluation uses the precision of training",
    "dataloader_in_order": "micro-batches are always in their planned order",
    "disable_tqdm": "progress is Tuneyard's own bar, drawn on a terminal",
    "do_predict": "training makes no predictions",
    "enable_jit_checkpoint": "SIGTERM always saves after the current step",
    "eval_accumulation_steps": _LOSSES,
    "eval_do_concat_batches": _LOSSES,
    "eval_use_gather_object": _LOSSES,
    "fp16_full_eval": "an evaluation uses the precision of training",
    "hub_always_push": _RESULTS,
    "hub_model_id": _RESULTS,
    "hub_private_repo": _RESULTS,
    "hub_revision": _RESULTS,
    "hub_strategy": _RESULTS,
    "include_for_metrics": _LOSSES,
    "label_names": "the labels follow from the conversations",
    "length_column_name": "lengths are counted in tokens, from the conversations",
    "log_level": _LOG,
    "log_level_replica": _LOG,
    "log_on_each_node": _LOG,
    "restore_callback_states_from_checkpoint": "a resumed run always restores its state",
    "save_on_each_node": "the main process saves for all",
    "skip_memory_metrics": "the Trainer's memory numbers are not kept; tuneyard plan estimates what a run needs",
    "trackio_bucket_id": _TRACKIO,
    "trackio_space_id": _TRACKIO,
    "trackio_static_space_id": _TRACKIO,
    "use_cache": "training does not cache keys and values; the published model has the base model's use_cache",
    "use_cpu": "the device is set by gpuResource (empty for the CPU) and TUNEYARD_DEVICE",
}
"""Arguments without an effect here for any value, each with the reason."""

ACCEPTED: Mapping[str, tuple[Any, ...]] = {
    "accelerator_config": tuple({"gradient_accumulation_kwargs": {"sync_each_batch": each}} for each in (True, False)),
    "disable_tqdm": (True,),
}
"""Values of these that have an effect, or equal the behaviour."""

_BY_METRIC = ("reduce_lr_on_plateau", "greedy")
_WITHOUT_WARMUP = ("constant", *_BY_METRIC)
_OF_PROCESSES = (
    "ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
    "ddp_timeout average_tokens_across_devices"
)


def default_of(name: str) -> Any:
    """Return transformers' default of an argument."""
    return TrainingFields.model_fields[name].get_default(call_default_factory=True)


def arguments_have_an_effect(args: TrainingFields) -> Iterator[Broken]:
    """An argument without an effect is refused by name."""
    for name, reason in NEVER.items():
        value = getattr(args, name)
        if value != default_of(name) and value not in ACCEPTED.get(name, ()):
            yield Broken(name, f"has no effect: {reason}", value=str(value))
    if args.do_eval and args.eval_strategy == "no":
        yield Broken("do_eval", "has no effect without an eval_strategy", value="true", about=("eval_strategy",))


def idle_arguments(
    args: TrainingFields, *, processes: int, trackers: Collection[str], early_stopping: bool
) -> Iterator[tuple[str, str]]:
    """Yield each argument that has no effect with the other values, and why.

    Args:
        args: The arguments.
        processes: How many processes train.
        trackers: What the run reports to, by transformers' names.
        early_stopping: Whether the run stops early.
    """
    schedule = args.lr_scheduler_type
    compares = args.load_best_model_at_end or args.save_strategy == "best" or early_stopping
    needs: list[tuple[bool, str, str]] = [
        (args.eval_strategy == "steps", f"eval_strategy is {args.eval_strategy}", "eval_steps"),
        (args.eval_strategy != "no", "eval_strategy is no", "eval_delay eval_on_start"),
        (args.save_strategy == "steps", f"save_strategy is {args.save_strategy}", "save_steps"),
        (args.save_strategy != "no", "save_strategy is no", "save_total_limit"),
        (args.logging_strategy == "steps", f"logging_strategy is {args.logging_strategy}", "logging_steps"),
        (args.logging_strategy != "no", "logging_strategy is no", "logging_first_step"),
        (args.gradient_checkpointing, "gradient_checkpointing is false", "gradient_checkpointing_kwargs"),
        (args.use_liger_kernel, "use_liger_kernel is false", "liger_kernel_config"),
        (args.max_steps <= 0, "max_steps sets the end", "num_train_epochs"),
        (schedule not in _WITHOUT_WARMUP, f"lr_scheduler_type is {schedule}", "warmup_steps"),
        (compares or schedule in _BY_METRIC, "no checkpoints are compared", "metric_for_best_model greater_is_better"),
        (args.dataloader_num_workers > 0, "dataloader_num_workers is 0", "dataloader_multiprocessing_context"),
        (processes > 1, "one process trains", _OF_PROCESSES),
        (bool(trackers), "report_to names no tracker", "run_name"),
        ("trackio" in trackers, "report_to does not name trackio", "project"),
    ]
    for holds, why, names in needs:
        yield from ((name, why) for name in names.split() if not holds and getattr(args, name) != default_of(name))
