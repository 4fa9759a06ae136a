"""What may not change under one `checkpointsRemote`: everything in the values but a short list, and the encoded rows.

Keys are not sorted into those that decide a number and others: a new argument of a library, or a key that this version
of Tuneyard adds, is in it by itself. `MAY_CHANGE` lists the rest, each with why no number of the training depends on
it; keys that apply to a cluster only are marked where they are declared. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from tuneyard.values import BatchSizes, ClusterOnly, FinetuneValues, Values

FORMAT = 2
"""Raised where a key's form changes: records of another format are compared in the keys that both have."""

ROWS = "encoded rows"
"""The hash of the rows as token ids; known once they are encoded."""

TEMPLATE_TIME = "chat template's time"
"""The time that chat templates see, the same on every attempt; known once the rows are encoded."""

_ELSEWHERE = "where and on how many devices a run trains"
_CADENCE = "when something is logged, evaluated or saved"
_SPEED = "how fast a step is, not what it computes"
_NAME = "the name of a run, and where it is reported"

MAY_CHANGE: Mapping[str, str] = {
    "basemodel": "where the base model is stored; its content is in the fingerprint",
    "checkpointsRemote": "which experiment it is",
    "mergeAdapter": "whether the result is merged too",
    "runTensorboard": _NAME,
    "env": "variables, whose texts may be secrets",
    **dict.fromkeys(
        ("finetuningGpus", "nodes", "gpuResource", "distributedType", "customAccelerateConfig"), _ELSEWHERE
    ),
    "finetuning_config.tracking": _NAME,
    "finetuning_config.run_conf.resume_from_checkpoint": "where it starts, not what it computes",
    "finetuning_config.batchsize_conf.total_train_batch_size": "the resolved total is in the fingerprint",
    "finetuning_config.batchsize_conf.max_per_device_train_batch_size": "how a step is divided",
    "finetuning_config.batchsize_conf.per_device_eval_batch_size": "how an evaluation is divided",
    **{
        f"finetuning_config.training_args.{name}": why
        for why, names in {
            _NAME: "report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id disable_tqdm",
            _CADENCE: "logging_strategy logging_steps logging_first_step eval_strategy eval_steps eval_delay "
            "eval_on_start save_strategy save_steps save_total_limit include_num_input_tokens_seen",
            _SPEED: "gradient_checkpointing gradient_checkpointing_kwargs torch_empty_cache_steps skip_memory_metrics "
            "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
            "dataloader_multiprocessing_context ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers "
            "ddp_static_graph ddp_backend ddp_timeout",
        }.items()
        for name in names.split()
    },
}
"""Dotted keys of the values that may differ between two attempts, each with the reason."""


def fingerprint(
    values: FinetuneValues, base_sha256: str, datasets: Mapping[str, str], sizes: BatchSizes
) -> dict[str, Any]:
    """List what may not change between attempts and is known before the rows are encoded.

    Args:
        values: The resolved values.
        base_sha256: Content hash of the base model.
        datasets: Content hash of each data file, by key.
        sizes: The resolved batch sizes.

    Returns:
        A flat mapping from the values' dotted paths to plain JSON values.
    """
    return {
        "format": FORMAT,
        "basemodel": base_sha256,
        "finetuning_config.batchsize_conf.total_train_batch_size": sizes.total,
        **{f"data {key}": digest for key, digest in datasets.items()},
        **dict(_frozen(values)),
    }


def assumed() -> dict[str, Any]:
    """Return the values of keys that an experiment's record lacks, since it was started before they existed."""
    return dict(_frozen(FinetuneValues.model_construct(basemodel="")))


def _frozen(values: FinetuneValues) -> Iterator[tuple[str, Any]]:
    for path, value in _leaves("", values):
        if not any(path == key or path.startswith(f"{key}.") for key in MAY_CHANGE):
            yield path, value


def _leaves(prefix: str, values: Values) -> Iterator[tuple[str, Any]]:
    """Yield every value by its dotted path; maps that a user fills are flattened too."""
    dumped = values.model_dump(mode="json")
    for name, field in type(values).model_fields.items():
        if any(isinstance(mark, ClusterOnly) for mark in field.metadata):
            continue
        value = getattr(values, name)
        if isinstance(value, Values):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield from _entries(f"{prefix}{name}", dumped[name])


def _entries(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in cast("dict[str, Any]", value).items():
            yield from _entries(f"{path}.{key}", item)
    elif value != {}:
        yield path, value
