"""Values of the chart that finetunes: what runs where, and `finetuning_config` for what is trained."""

# ruff: noqa: N815  (attributes are called as the charts' keys are)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tuneyard.values.base import CLUSTER, Broken, Remark, Rule
from tuneyard.values.batches import BatchSizes, impossible_total, resolve_batch_sizes
from tuneyard.values.finetuning import FinetuningConfig
from tuneyard.values.places import BucketPath
from tuneyard.values.scalars import Count, Int, Plain, Quantity, Text
from tuneyard.values.servable import UNMERGEABLE, unserved_by_vllm
from tuneyard.values.shared import Env, GpuResource, Job, NetworkPolicy, NodesSecret, SecretKey
from tuneyard.values.without_effect import idle_arguments

DistributedType = Literal[
    "auto-single-process",
    "auto-ddp",
    "auto-fsdp",
    "auto-deepspeed-stage1",
    "auto-deepspeed-stage3",
    "custom-accelerate-config",
]
DATASETS = "finetuning_config.data_conf.training_data.datasets"
BATCH = "finetuning_config.batchsize_conf.total_train_batch_size"
TRAINING_ARGS = "finetuning_config.training_args"


def some_data_is_named(values: FinetuneValues) -> Iterator[Broken]:
    """Without data there is nothing to train on."""
    if not values.finetuning_config.data_conf.training_data.datasets:
        yield Broken(DATASETS, "is empty: set at least one file of conversations", allowed="[{path: bucket/key}]")


def accelerate_config_goes_with_its_type(values: FinetuneValues) -> Iterator[Broken]:
    """`custom-accelerate-config` and `customAccelerateConfig` need each other."""
    custom = values.distributedType == "custom-accelerate-config"
    if custom and not values.customAccelerateConfig:
        yield Broken(
            "customAccelerateConfig",
            "is missing, and distributedType custom-accelerate-config needs it",
            about=("distributedType",),
        )
    if values.customAccelerateConfig and not custom:
        yield Broken(
            "customAccelerateConfig",
            f"has no effect with distributedType {values.distributedType}",
            allowed="distributedType: custom-accelerate-config",
            about=("distributedType",),
        )


def single_process_is_one(values: FinetuneValues) -> Iterator[Broken]:
    """`auto-single-process` and several accelerators contradict each other."""
    if values.distributedType == "auto-single-process" and values.processes > 1:
        yield Broken(
            "distributedType",
            f"runs one process, and {values.processes} are configured",
            value=values.distributedType,
            suggestion="auto-ddp",
            about=("finetuningGpus", "nodes"),
        )


def total_batch_can_be_shared(values: FinetuneValues) -> Iterator[Broken]:
    """Every process takes the same share of each step."""
    total = values.finetuning_config.batchsize_conf.total_train_batch_size
    if total is not None and (problem := impossible_total(total, values.processes)):
        yield Broken(BATCH, problem.what, problem.value, problem.allowed, about=("finetuningGpus", "nodes"))


def merging_needs_an_adapter(values: FinetuneValues) -> Iterator[Broken]:
    """Full-parameter finetuning leaves nothing to merge: `checkpoint-final` is the whole model."""
    if values.mergeAdapter and values.finetuning_config.peft_conf.peft_type == "NO_PEFT":
        yield Broken(
            "mergeAdapter",
            "has nothing to merge: peft_type is NO_PEFT and checkpoint-final will be the whole model",
            value="true",
            suggestion="mergeAdapter: false",
            about=("finetuning_config.peft_conf.peft_type",),
        )


def some_adapters_can_not_be_merged(values: FinetuneValues) -> Iterator[Broken]:
    """Virtual tokens before the prompt are in no weight of the base model."""
    kind = values.finetuning_config.peft_conf.peft_type
    if values.mergeAdapter and kind in UNMERGEABLE:
        yield Broken(
            "mergeAdapter",
            f"has nothing to merge into: {kind} trains virtual tokens before the prompt and no weight of the base",
            value="true",
            suggestion="mergeAdapter: false",
            about=("finetuning_config.peft_conf.peft_type",),
        )


def vllm_serves_the_adapter(values: FinetuneValues) -> str | None:
    """Warn before training if vLLM will not serve the result."""
    conf = values.finetuning_config.peft_conf
    return None if values.mergeAdapter else unserved_by_vllm(conf.peft_type, conf.peft_kwargs)


def relaunch_starts_over_without_checkpoints(values: FinetuneValues) -> str | None:
    """Warn that a relaunch can't resume if no checkpoints are saved."""
    if values.finetuning_config.training_args.save_strategy != "no":
        return None
    return (
        f"{TRAINING_ARGS}.save_strategy is no: a relaunch finds no checkpoint and trains from the start,"
        " unless SIGTERM saved one"
    )


def arguments_wait_for_others(values: FinetuneValues) -> str | None:
    """List the training arguments that have no effect with the other values."""
    config = values.finetuning_config
    found = idle_arguments(
        config.training_args,
        processes=values.processes,
        trackers=values.trackers,
        early_stopping=config.early_stopping is not None,
    )
    idle = ", ".join(f"{name} ({why})" for name, why in found)
    return f"{TRAINING_ARGS} without effect here: {idle}" if idle else None


class TrainingNetworkPolicy(NetworkPolicy):
    """Who may connect to the pods of a run, and what they may connect to."""

    betweenNodes: bool = True
    """With several nodes, accept connections from the run's own pods only, even if `enabled` is false."""


class FinetuneValues(Job):
    """Values of `LLM-finetune-silogen-engine`."""

    kind: ClassVar[str] = "finetune"

    checks: ClassVar[Sequence[Rule]] = (
        some_data_is_named,
        accelerate_config_goes_with_its_type,
        single_process_is_one,
        total_batch_can_be_shared,
        merging_needs_an_adapter,
        some_adapters_can_not_be_merged,
    )
    remarks: ClassVar[Sequence[Remark]] = (
        relaunch_starts_over_without_checkpoints,
        vllm_serves_the_adapter,
        arguments_wait_for_others,
    )

    basemodel: BucketPath
    """The delivered base model, as `bucket/key`."""

    checkpointsRemote: BucketPath | None = None
    """Where checkpoints and results are published, as `bucket/key`; by default `default-bucket/experiments/<name>`."""

    finetuningImage: Annotated[Text, CLUSTER] = "ghcr.io/tuneyard/train:0.1.0"
    """The training image."""

    finetuningGpus: Count = 1
    """Accelerators per node, one process each."""

    nodes: Count = 1
    """The number of nodes that train together."""

    nodesSecret: Annotated[NodesSecret, CLUSTER] = Field(default_factory=NodesSecret)
    """The Secret with the key that authenticates nodes to each other; without a name, it is derived from the store's
    secret key."""

    gpuResource: GpuResource = "amd.com/gpu"
    """The extended resource of one accelerator; empty to train on the CPU."""

    distributedType: DistributedType = "auto-ddp"
    """How training is distributed over processes."""

    customAccelerateConfig: dict[str, Plain] | None = None
    """accelerate's configuration, for distributedType custom-accelerate-config."""

    mergeAdapter: bool = False
    """Also publish `checkpoint-final-merged`, the base model with the adapter merged in."""

    downloadsReservedSize: Annotated[Quantity, CLUSTER] = "64Gi"
    """Disk space for the base model and the data."""

    checkpointsReservedSize: Annotated[Quantity, CLUSTER] = "128Gi"
    """Disk space for checkpoints before they are published."""

    sharedMemory: Annotated[Quantity, CLUSTER] = "8Gi"
    """Size of `/dev/shm`, which a node's processes communicate through; it counts as memory."""

    waitSeconds: Annotated[Annotated[Int, Field(ge=0)], CLUSTER] = 3600
    """Seconds to wait for a base model and data that are not delivered yet."""

    terminationGracePeriodSeconds: Annotated[Count, CLUSTER] = 600
    """Seconds that a run has to save and publish a checkpoint after SIGTERM."""

    hfTokenSecret: Annotated[SecretKey, CLUSTER] = Field(default_factory=SecretKey)
    """The Secret with a token for the Hugging Face Hub."""

    networkPolicy: Annotated[TrainingNetworkPolicy, CLUSTER] = Field(default_factory=TrainingNetworkPolicy)
    """Restrict the network."""

    env: Env = Field(default_factory=dict)
    """Additional environment variables for the training process: a text, or `{name, key}` of a Secret."""

    runTensorboard: bool = False
    """Publish TensorBoard event files to `tensorboard/` under checkpointsRemote during training."""

    finetuning_config: FinetuningConfig = Field(default_factory=FinetuningConfig)
    """The training method, data and settings."""

    @property
    def processes(self) -> int:
        """How many processes train in all."""
        return self.finetuningGpus * self.nodes

    @property
    def batch_sizes(self) -> BatchSizes:
        """How the conversations of a step are spread over the processes and their micro-batches."""
        batch = self.finetuning_config.batchsize_conf
        return resolve_batch_sizes(batch.total_train_batch_size, self.processes, batch.max_per_device_train_batch_size)

    @property
    def virtual_tokens(self) -> int:
        """How many positions a trained prompt takes before each row."""
        return int(self.finetuning_config.peft_conf.peft_kwargs.get("num_virtual_tokens") or 0)

    @property
    def trackers(self) -> tuple[str, ...]:
        """What a run reports to, by transformers' names: those of `report_to`, and those with a key of their own."""
        given = self.finetuning_config.training_args.report_to
        names = [given] if isinstance(given, str) else list(given or [])
        own = {"tensorboard": self.runTensorboard, "mlflow": self.finetuning_config.tracking is not None}
        named = [name for name in names if name != "none"]
        return tuple(dict.fromkeys([*named, *(name for name in own if own[name])]))
