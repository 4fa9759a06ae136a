"""`finetuning_config`: the method, the data, the batch, the adapter and the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from tuneyard.values import legacy
from tuneyard.values.adapters import PeftConf, QuantConf
from tuneyard.values.base import Broken, Remark, Rule, Values, refuse
from tuneyard.values.dpo_fields import DpoFields
from tuneyard.values.places import BucketPath
from tuneyard.values.rows import RowsConf
from tuneyard.values.scalars import Count, Float, Int, Map, Plain, Text
from tuneyard.values.training import TrainingArgs


class Dataset(legacy.AcceptsOldKeys):
    """One file of conversations."""

    spellings: ClassVar[legacy.Spellings] = legacy.DATASET

    path: BucketPath
    """Its key, as `bucket/key`: a JSONL or Parquet file."""

    format: Literal["auto", "messages", "sharegpt", "prompt-completion", "alpaca", "preference"] = "auto"
    """The format of its rows; auto detects it from the fields of the first rows."""

    weight: Annotated[Float, Field(gt=0)] = 1.0
    """Its sampling weight in a PRECOMPUTE_WEIGHTED_MIX, relative to the other datasets."""


def weights_need_a_mix(data: TrainingData) -> Iterator[Broken]:
    """A concatenation uses every row once, so a weight would be ignored."""
    if data.type == "PRECOMPUTE_WEIGHTED_MIX":
        return
    for place, dataset in enumerate(data.datasets):
        if dataset.weight != 1.0:
            where = f"datasets[{place}].weight"
            allowed = "type: PRECOMPUTE_WEIGHTED_MIX"
            yield Broken(
                where, "has no effect with type CONCATENATION", f"{dataset.weight:g}", allowed, about=("type",)
            )


class TrainingData(legacy.AcceptsOldKeys):
    """The training data."""

    spellings: ClassVar[legacy.Spellings] = legacy.DATA_INPUT
    checks: ClassVar[Sequence[Rule]] = (weights_need_a_mix,)

    type: Literal["CONCATENATION", "PRECOMPUTE_WEIGHTED_MIX"] = "CONCATENATION"
    """Concatenate the files, or sample from them by weight."""

    datasets: list[Dataset] = Field(default_factory=list[Dataset])
    """The files."""

    seed: Annotated[Int, Field(ge=0)] = 19851243
    """The seed of a PRECOMPUTE_WEIGHTED_MIX."""


def validation_files_need_their_type(data: ValidationData) -> Iterator[Broken]:
    """Files of their own are what CONCATENATION validates on, and only that."""
    if data.type == "CONCATENATION" and not data.datasets:
        yield Broken("datasets", "is empty, and type CONCATENATION validates on files", about=("type",))
    if data.type != "CONCATENATION" and data.datasets:
        what = f"has no effect with type {data.type}"
        yield Broken("datasets", what, allowed="type: CONCATENATION", about=("type",))


def validation_files_have_no_weight(data: ValidationData) -> Iterator[Broken]:
    """Each row is evaluated once."""
    for place, dataset in enumerate(data.datasets):
        if dataset.weight != 1.0:
            yield Broken(f"datasets[{place}].weight", "has no effect for validation", f"{dataset.weight:g}")


class ValidationData(legacy.AcceptsOldKeys):
    """The data that the evaluation loss is computed on."""

    spellings: ClassVar[legacy.Spellings] = legacy.DATA_INPUT
    checks: ClassVar[Sequence[Rule]] = (
        validation_files_need_their_type,
        validation_files_have_no_weight,
    )

    type: Literal["AUTO_SPLIT", "CONCATENATION", "NONE"] = "AUTO_SPLIT"
    """A share of the training data, separate files, or none."""

    ratio: Annotated[Float, Field(gt=0, lt=1)] = 0.1
    """The share of rows that AUTO_SPLIT holds out."""

    seed: Annotated[Int, Field(ge=0)] = 1289525893
    """The seed of AUTO_SPLIT."""

    datasets: list[Dataset] = Field(default_factory=list[Dataset])
    """The files of CONCATENATION."""


class DataConf(legacy.AcceptsOldKeys):
    """The data, and how conversations are rendered."""

    spellings: ClassVar[legacy.Spellings] = legacy.DATA_CONF

    training_data: TrainingData = Field(default_factory=TrainingData)
    """The training data."""

    validation_data: ValidationData = Field(default_factory=ValidationData)
    """The validation data."""

    rows: RowsConf = Field(default_factory=RowsConf)
    """What happens to rows that can't or shouldn't be trained on as they are."""

    chat_template_name: Literal["keep-original", "chat-ml", "mistral-with-system", "simplified-llama31", "poro"] = (
        "keep-original"
    )
    """The model's own chat template, or one by name."""

    missing_pad_token_strategy: Literal["bos-repurpose", "unk-repurpose", "eos-repurpose", "unk-convert-to-eos"] = (
        "bos-repurpose"  # noqa: S105
    )
    """The pad token where the tokenizer has none; it is masked from loss and attention."""


BatchCount = Annotated[Int, Field(ge=1, le=2**20)]
"""Conversations that are taken together; a step of more would take days before it changes a weight."""


class BatchsizeConf(Values):
    """The size of one optimizer step."""

    total_train_batch_size: BatchCount | None = None
    """Conversations in one optimizer step over all processes; null for one on each."""

    max_per_device_train_batch_size: BatchCount = 1
    """The maximum number of conversations per micro-batch and device; larger batches are accumulated."""

    per_device_eval_batch_size: BatchCount | None = None
    """Conversations in one evaluation batch of a device; null for as many as in training."""


def _resume_from_text(given: Any) -> Any:
    words = {"true": True, "false": False}
    return words.get(given.lower(), given) if isinstance(given, str) else given


class RunConf(legacy.AcceptsOldKeys):
    """How the model is loaded and whether the run resumes."""

    spellings: ClassVar[legacy.Spellings] = legacy.RUN_CONF

    model_args: Map = Field(default_factory=dict)
    """Keyword arguments of transformers' `from_pretrained`, such as dtype and attn_implementation."""

    trained_weights: Literal["float32", "as-loaded"] = "float32"
    """The type of weights that are trained: float32 under autocast, or that of `model_args.dtype`, which in bfloat16
    rounds most updates away. What is published has the type of `model_args.dtype` either way."""

    resume_from_checkpoint: Annotated[Literal["auto", True, False], BeforeValidator(_resume_from_text)] = "auto"
    """`auto` resumes from the newest checkpoint if there is one; true requires one; false requires none."""

    @model_validator(mode="before")
    @classmethod
    def old_model_args_are_translated(cls, given: Any, info: ValidationInfo) -> Any:
        """Read `torch_dtype` and its kin; a revision stays text."""
        if not isinstance(given, dict):
            return given
        raw = cast("dict[str, Any]", given)
        if not isinstance(raw.get("model_args"), Mapping):
            return raw
        old: Mapping[str, Any] = raw["model_args"]
        today, refused = legacy.translate(legacy.MODEL_ARGS, old, info, under="model_args")
        if isinstance(dtype := today.get("dtype"), str):
            today["dtype"] = dtype.removeprefix("torch.")
        return refuse({**raw, "model_args": today}, refused, info)


def model_arguments_are_possible(run: RunConf) -> Iterator[Broken]:
    """Two arguments have a closed set of values that is known without torch."""
    allowed = ("auto", "float32", "bfloat16", "float16")
    dtype = run.model_args.get("dtype")
    if dtype is not None and dtype not in allowed:
        yield Broken("model_args.dtype", "is not a type of weights", str(dtype), ", ".join(allowed))


RunConf.checks = (model_arguments_are_possible,)


class SftArgs(legacy.AcceptsOldKeys):
    """Supervised finetuning."""

    spellings: ClassVar[legacy.Spellings] = legacy.SFT_ARGS

    max_seq_length: Annotated[Int, Field(ge=8)] = 2048
    """The longest conversation in tokens; data_conf.rows.overlong sets what happens to longer ones."""

    train_on_completions_only: bool = True
    """Compute the loss on the assistant's answers only; false for the whole text."""


def preference_numbers_are_possible(args: DpoArgs) -> Iterator[Broken]:
    """TRL's own limits, which it would check only once a model is loaded."""
    if args.beta <= 0:
        yield Broken("beta", "is out of range", value=f"{args.beta:g}", allowed="more than 0")
    if not 0 <= args.label_smoothing < 0.5:
        yield Broken("label_smoothing", "is out of range", f"{args.label_smoothing:g}", "from 0 to below 0.5")
    if args.max_length is not None and args.max_length < 8:
        yield Broken("max_length", "is out of range", str(args.max_length), "8 or more")
    names = [args.loss_type] if isinstance(args.loss_type, str) else args.loss_type
    weights: Any = args.loss_weights
    if not names:
        yield Broken("loss_type", "names no loss", allowed="sigmoid")
    given = cast("list[Any]", weights) if isinstance(weights, list) else []
    fit = len(given) == len(names) and all(isinstance(each, int | float) for each in given)
    if weights is not None and not fit:
        allowed = f"a list of {len(names)} number(s), one for each loss_type"
        yield Broken("loss_weights", "does not fit loss_type", str(weights), allowed, about=("loss_type",))


class DpoArgs(DpoFields):
    """Direct preference optimization: what TRL's DPOConfig adds to the training arguments."""

    checks: ClassVar[Sequence[Rule]] = (preference_numbers_are_possible,)


class Overrides(Values):
    """Scales the learning rate."""

    lr_multiplier: Annotated[Float, Field(gt=0)] = 1.0
    """The learning rate is multiplied by this."""

    lr_batch_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """The learning rate is multiplied by the total batch size, its square root, or not."""


class EarlyStopping(Values):
    """Stops training when evaluations stop improving, with transformers' EarlyStoppingCallback."""

    early_stopping_patience: Count = 1
    """Stop after this many evaluations in a row without improvement of metric_for_best_model."""

    early_stopping_threshold: Annotated[Float, Field(ge=0)] = 0.0
    """The minimum change of the metric that counts as an improvement."""


def checkpoints_are_not_copied(tracking: Tracking) -> Iterator[Broken]:
    """Transformers would pickle a copy of each checkpoint, between two steps."""
    value = tracking.hf_mlflow_log_artifacts
    if legacy.is_true(value):
        what = "is not supported: checkpoints and results go to checkpointsRemote"
        yield Broken("hf_mlflow_log_artifacts", what, value=str(value), allowed="false")


class Tracking(Values):
    """An MLflow server that the run's metrics are logged to."""

    checks: ClassVar[Sequence[Rule]] = (checkpoints_are_not_copied,)

    mlflow_server_uri: Text
    """The server's URL."""

    experiment_name: Text
    """The experiment that the run belongs to."""

    run_id: Text | None = None
    """The MLflow run to continue."""

    run_name: Text | None = None
    """The name of a new MLflow run."""

    hf_mlflow_log_artifacts: Plain = "False"
    """Copies of checkpoints in MLflow: false, since they go to checkpointsRemote."""


def evaluation_needs_data(config: FinetuningConfig) -> Iterator[Broken]:
    """An evaluation has to have something to evaluate on."""
    if config.training_args.eval_strategy != "no" and config.data_conf.validation_data.type == "NONE":
        yield Broken(
            "training_args.eval_strategy",
            "has no data to evaluate on: data_conf.validation_data.type is NONE",
            value=config.training_args.eval_strategy,
            allowed="eval_strategy: no, or validation data",
            about=("data_conf.validation_data.type",),
        )


def dpo_args_need_dpo(config: FinetuningConfig) -> Iterator[Broken]:
    """Settings of one method mean nothing to another."""
    if config.dpo_args is not None and config.method != "dpo":
        yield Broken("dpo_args", f"has no effect with method {config.method}", allowed="method: dpo", about=("method",))


def sft_args_need_sft(config: FinetuningConfig) -> Iterator[Broken]:
    """The same the other way round."""
    if config.method != "sft" and config.sft_args != SftArgs():
        what = f"has no effect with method {config.method}"
        yield Broken("sft_args", what, allowed="dpo_args.max_length for the longest answer", about=("method",))


def early_stopping_needs_an_evaluation_and_a_metric(config: FinetuningConfig) -> Iterator[Broken]:
    """What stops a training early is a metric of its evaluations."""
    args = config.training_args
    if config.early_stopping is None:
        return
    if args.eval_strategy == "no":
        about = ("training_args.eval_strategy",)
        yield Broken("early_stopping", "needs an evaluation", allowed="eval_strategy: steps, epoch", about=about)
    elif args.metric_for_best_model is None and not args.load_best_model_at_end:
        what = "needs a metric"
        about = ("training_args.metric_for_best_model", "training_args.load_best_model_at_end")
        yield Broken("early_stopping", what, allowed="training_args.metric_for_best_model: loss", about=about)


METRICS: Mapping[str, tuple[str, ...]] = {
    "sft": ("loss",),
    "dpo": ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
}
"""What an evaluation measures of a model, by method; transformers takes each with `eval_` before it too."""


def best_model_metric_is_one_of_the_evaluation(config: FinetuningConfig) -> Iterator[Broken]:
    """What is compared has to be measured, whether or not the comparison has an effect."""
    named = config.training_args.metric_for_best_model
    known = METRICS[config.method]
    if named is not None and named.removeprefix("eval_") not in known:
        yield Broken(
            "training_args.metric_for_best_model",
            f"is not measured by an evaluation with method {config.method}",
            value=named,
            allowed=", ".join(known),
            about=("method",),
        )


def quantized_weights_are_not_trained(config: FinetuningConfig) -> Iterator[Broken]:
    """Only an adapter on quantized weights has gradients."""
    quantized = config.quant_conf.quantization_type != "no-quantization"
    if quantized and config.peft_conf.peft_type == "NO_PEFT":
        yield Broken(
            "quant_conf.quantization_type",
            "leaves no trainable weight with NO_PEFT",
            value=config.quant_conf.quantization_type,
            allowed="an adapter: peft_conf.peft_type LORA",
            about=("peft_conf.peft_type",),
        )
    if quantized and not (config.quant_conf.load_in_4bit or config.quant_conf.load_in_8bit):
        what = "needs a number of bits"
        about = ("quant_conf.load_in_4bit", "quant_conf.load_in_8bit")
        yield Broken("quant_conf.quantization_type", what, allowed="load_in_4bit or load_in_8bit: true", about=about)


def unused_validation_data(config: FinetuningConfig) -> str | None:
    """Warn that rows are held out for an evaluation that never runs."""
    data = config.data_conf.validation_data
    if config.training_args.eval_strategy == "no" and data.type != "NONE":
        return f"data_conf.validation_data ({data.type}) is not evaluated: training_args.eval_strategy is no"
    return None


def settings_that_wait_for_others(config: FinetuningConfig) -> str | None:
    """Describe the settings of the data and the batch that have no effect with the others."""
    data, batch = config.data_conf, config.batchsize_conf
    split = data.validation_data.type == "AUTO_SPLIT"
    compared = data.rows.near_duplicates != "keep" or data.rows.leaked != "keep"
    mixed = data.training_data.type == "PRECOMPUTE_WEIGHTED_MIX"
    evaluated = config.training_args.eval_strategy != "no"
    needs: list[tuple[bool, str, Values, str, str]] = [
        (mixed, "data_conf.training_data.", data.training_data, "seed", "only a mix is drawn"),
        (split, "data_conf.validation_data.", data.validation_data, "ratio", "nothing is split"),
        (split, "data_conf.validation_data.", data.validation_data, "seed", "nothing is split"),
        (compared, "data_conf.rows.", data.rows, "similarity", "near_duplicates and leaked are keep"),
        (evaluated, "batchsize_conf.", batch, "per_device_eval_batch_size", "eval_strategy is no"),
    ]
    idle = [
        f"{where}{name} ({why})"
        for holds, where, part, name, why in needs
        if not holds and getattr(part, name) != type(part).model_fields[name].default
    ]
    return f"finetuning_config without effect here: {', '.join(idle)}" if idle else None


class FinetuningConfig(Values):
    """The training method, data and settings."""

    checks: ClassVar[Sequence[Rule]] = (
        evaluation_needs_data,
        dpo_args_need_dpo,
        sft_args_need_sft,
        early_stopping_needs_an_evaluation_and_a_metric,
        best_model_metric_is_one_of_the_evaluation,
        quantized_weights_are_not_trained,
    )
    remarks: ClassVar[Sequence[Remark]] = (unused_validation_data, settings_that_wait_for_others)

    method: Literal["sft", "dpo"] = "sft"
    """Supervised finetuning, or direct preference optimization."""

    data_conf: DataConf = Field(default_factory=DataConf)
    """The data, and how conversations are rendered."""

    training_args: TrainingArgs = Field(default_factory=TrainingArgs)
    """Arguments of transformers' Trainer, all of them."""

    batchsize_conf: BatchsizeConf = Field(default_factory=BatchsizeConf)
    """The size of one optimizer step."""

    peft_conf: PeftConf = Field(default_factory=PeftConf)
    """The adapter, or none."""

    quant_conf: QuantConf = Field(default_factory=QuantConf)
    """Quantization of the base model, or none."""

    run_conf: RunConf = Field(default_factory=RunConf)
    """How the model is loaded and whether the run resumes."""

    sft_args: SftArgs = Field(default_factory=SftArgs)
    """Settings of supervised finetuning."""

    dpo_args: DpoArgs | None = None
    """Settings of direct preference optimization."""

    overrides: Overrides = Field(default_factory=Overrides)
    """Scales the learning rate."""

    early_stopping: EarlyStopping | None = None
    """Stops training when evaluations stop improving."""

    tracking: Tracking | None = None
    """An MLflow server that the run's metrics are logged to."""

    @property
    def preference_args(self) -> DpoArgs:
        """The settings of direct preference optimization, each at its default where none are given."""
        return self.dpo_args or DpoArgs()
