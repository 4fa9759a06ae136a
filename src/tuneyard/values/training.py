"""`training_args`: transformers' TrainingArguments by name, with transformers' own rules checked without torch.

The fields are mirrored in the generated `training_args`; this adds old spellings, the rules, and the few arguments that
other values own. Whether a trainer supports an argument is checked by the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

from pydantic import ValidationInfo, model_validator

from tuneyard.values import legacy
from tuneyard.values.base import Broken, Rule, refuse
from tuneyard.values.training_args import TrainingFields
from tuneyard.values.without_effect import arguments_have_an_effect, default_of

OWNED = {
    "output_dir": "checkpoints go to checkpointsRemote",
    "per_device_train_batch_size": "the batch is set by batchsize_conf.max_per_device_train_batch_size",
    "per_device_eval_batch_size": "it is set by batchsize_conf.per_device_eval_batch_size",
    "gradient_accumulation_steps": "it follows from batchsize_conf.total_train_batch_size",
}
"""Arguments that other values decide, each with the reason; the trainer fills them in."""

SET_ELSEWHERE = {
    "deepspeed": "the distribution is set by distributedType",
    "fsdp": "the distribution is set by distributedType",
    "fsdp_config": "the distribution is set by distributedType and customAccelerateConfig",
    "parallelism_config": "the distribution is set by distributedType and customAccelerateConfig",
    "resume_from_checkpoint": "it is set by run_conf.resume_from_checkpoint",
    "push_to_hub": "results go to checkpointsRemote and nothing is pushed to the Hub",
    "hub_token": "a secret does not belong in values: name it with hfTokenSecret, or set HF_TOKEN",
    "local_rank": "the launcher sets each process's rank",
}
"""Arguments that are set under another key, or nowhere, each with where."""

_RANGES: dict[str, tuple[float, float, str]] = {
    "learning_rate": (0, float("inf"), "0 or more"),
    "weight_decay": (0, float("inf"), "0 or more"),
    "max_grad_norm": (0, float("inf"), "0 or more; 0 clips nothing"),
    "warmup_steps": (0, float("inf"), "0 or more; below 1 it is a share of all steps"),
    "adam_beta1": (0, 1, "from 0 to 1"),
    "adam_beta2": (0, 1, "from 0 to 1"),
    "adam_epsilon": (0, float("inf"), "0 or more"),
    "label_smoothing_factor": (0, 1, "from 0 to 1"),
    "seed": (0, 2**32 - 1, "from 0 to 4294967295"),
    "data_seed": (0, 2**32 - 1, "from 0 to 4294967295"),
    "torch_empty_cache_steps": (1, float("inf"), "1 or more"),
    "dataloader_num_workers": (0, float("inf"), "0 or more"),
    "eval_delay": (0, float("inf"), "0 or more"),
    "save_total_limit": (1, float("inf"), "1 or more"),
    "ddp_timeout": (1, float("inf"), "1 or more, in seconds"),
}


class TrainingArgs(TrainingFields, legacy.AcceptsOldKeys):
    """Every argument of transformers.TrainingArguments, under its own name and with its own default."""

    spellings: ClassVar[legacy.Spellings] = legacy.TRAINING_ARGS

    @model_validator(mode="before")
    @classmethod
    def old_spellings_are_translated(cls, given: Any, info: ValidationInfo) -> Any:
        """Convert the keys of transformers 4."""
        if not isinstance(given, dict):
            return given
        raw = cast("dict[str, Any]", given)
        today, refused = legacy.translate(cls.spellings, raw, info, label="training_args")
        for name in ("deepspeed", "fsdp", "fsdp_config"):
            # "", [], {} and false meant none in transformers 4
            if name in today and not legacy.is_true(today[name]):
                del today[name]
        if isinstance(seen := today.get("include_num_input_tokens_seen"), bool):
            today["include_num_input_tokens_seen"] = "all" if seen else "no"
        return refuse(today, refused, info)

    def to_transformers(self) -> dict[str, Any]:
        """Return keyword arguments for `transformers.TrainingArguments`, or a subclass of it such as TRL's DPOConfig.

        Every argument is there, those at their default too, so that no default of a subclass slips in. Only
        `output_dir` and the three batch arguments are not: whoever trains fills them in.

        Returns:
            A new dict of plain values.
        """
        return {name: value for name, value in self.model_dump().items() if name not in OWNED}


def owned_arguments_are_left_alone(args: TrainingArgs) -> Iterator[Broken]:
    """Settings of batchsize_conf, distributedType and checkpointsRemote are not set here."""
    for name, reason in {**OWNED, **SET_ELSEWHERE}.items():
        value = getattr(args, name)
        if value != default_of(name):
            shown = "" if name == "hub_token" else str(value)
            yield Broken(name, f"is not accepted here: {reason}", value=shown)


def numbers_are_in_range(args: TrainingArgs) -> Iterator[Broken]:
    """Each number is in its range."""
    for name, (low, high, allowed) in _RANGES.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            yield Broken(name, "is out of range", value=f"{value:g}", allowed=allowed)
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        yield Broken("num_train_epochs", "is out of range", value=f"{args.num_train_epochs:g}", allowed="more than 0")


def intervals_are_steps_or_a_share(args: TrainingArgs) -> Iterator[Broken]:
    """An interval in steps is a whole number, or a share of all steps between 0 and 1."""
    pairs = (("logging", args.logging_steps), ("eval", args.eval_steps), ("save", args.save_steps))
    for kind, steps in pairs:
        if getattr(args, f"{kind}_strategy") != "steps" or (kind == "eval" and not steps):
            continue
        if steps is None or steps <= 0 or (steps > 1 and steps != int(steps)):
            allowed = "a whole number of steps, or a share of all steps between 0 and 1"
            yield Broken(f"{kind}_steps", "is not an interval", value=f"{steps:g}", allowed=allowed)


def best_model_needs_matching_intervals(args: TrainingArgs) -> Iterator[Broken]:
    """To load the best checkpoint, every checkpoint has to have been evaluated."""
    if not args.load_best_model_at_end or args.save_strategy == "best":
        return
    if args.eval_strategy == args.save_strategy == "no":
        about = ("save_strategy", "eval_strategy")
        yield Broken(
            "load_best_model_at_end", "needs an evaluation to find the best checkpoint", value="true", about=about
        )
        return
    if args.eval_strategy != args.save_strategy:
        yield Broken(
            "load_best_model_at_end",
            f"needs save_strategy and eval_strategy to be the same, and they are {args.save_strategy} and"
            f" {args.eval_strategy}",
            allowed="save_strategy: best, or the same strategy for both",
            about=("save_strategy", "eval_strategy"),
        )
        return
    if args.eval_strategy != "steps":
        return
    each = args.eval_steps or args.logging_steps
    mixed = (each < 1) != (args.save_steps < 1)
    # in millionths, since shares such as 0.3 and 0.1 have no exact remainder
    if each > 0 and (mixed or round(args.save_steps * 1_000_000) % round(each * 1_000_000)):
        yield Broken(
            "save_steps",
            f"is not a multiple of eval_steps ({each:g}), which load_best_model_at_end needs",
            value=f"{args.save_steps:g}",
            about=("eval_steps", "load_best_model_at_end", "logging_steps", "save_strategy", "eval_strategy"),
        )


def best_checkpoints_need_a_metric(args: TrainingArgs) -> Iterator[Broken]:
    """`save_strategy: best` compares a metric that has to be named and measured."""
    if args.save_strategy != "best":
        return
    if args.eval_strategy == "no":
        yield Broken(
            "save_strategy", "needs an evaluation to find the best checkpoint", value="best", about=("eval_strategy",)
        )
    if args.metric_for_best_model is None and not args.load_best_model_at_end:
        yield Broken(
            "metric_for_best_model",
            "is missing, and save_strategy best compares it",
            allowed="loss, or another metric of the evaluation",
            about=("save_strategy", "load_best_model_at_end"),
        )


def precision_is_one_of_two(args: TrainingArgs) -> Iterator[Broken]:
    """bf16 and fp16 exclude each other, in training and in evaluation."""
    for one, other in (("bf16", "fp16"), ("bf16_full_eval", "fp16_full_eval")):
        if getattr(args, one) and getattr(args, other):
            yield Broken(other, f"excludes {one}", value="true", about=(one,))


def schedules_that_look_at_the_loss_need_evaluation(args: TrainingArgs) -> Iterator[Broken]:
    """Two schedules change the rate by the result of the evaluation."""
    if args.lr_scheduler_type in {"reduce_lr_on_plateau", "greedy"} and args.eval_strategy == "no":
        what = "needs an evaluation to react to"
        yield Broken("lr_scheduler_type", what, value=args.lr_scheduler_type, about=("eval_strategy",))


def prefetching_needs_workers(args: TrainingArgs) -> Iterator[Broken]:
    """Only worker processes can prefetch."""
    if args.dataloader_prefetch_factor is not None and args.dataloader_num_workers == 0:
        yield Broken(
            "dataloader_prefetch_factor",
            "needs dataloader_num_workers of 1 or more",
            value=str(args.dataloader_prefetch_factor),
            about=("dataloader_num_workers",),
        )
    if args.dataloader_persistent_workers and args.dataloader_num_workers == 0:
        what = "needs dataloader_num_workers of 1 or more"
        yield Broken("dataloader_persistent_workers", what, value="true", about=("dataloader_num_workers",))


def debug_options_are_known(args: TrainingArgs) -> Iterator[Broken]:
    """Each word of `debug` is one of transformers', and no TPU's."""
    words = args.debug.split() if isinstance(args.debug, str) else args.debug
    for word in words:
        if word != "underflow_overflow":
            yield Broken("debug", "is not an option", value=word, allowed="underflow_overflow")


RULES: tuple[Rule, ...] = (
    owned_arguments_are_left_alone,
    numbers_are_in_range,
    intervals_are_steps_or_a_share,
    best_model_needs_matching_intervals,
    best_checkpoints_need_a_metric,
    precision_is_one_of_two,
    schedules_that_look_at_the_loss_need_evaluation,
    prefetching_needs_workers,
    debug_options_are_known,
    arguments_have_an_effect,
)
TrainingArgs.checks = RULES
