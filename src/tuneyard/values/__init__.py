"""Every chart's values as typed, closed models, and the one way to load them.

A field, its default, its documentation and its check stand in one place: here. The charts' `values.schema.json` and
`docs/reference/values.md` are generated from the models. Nothing here imports torch or transformers.
"""

from tuneyard.values.adapters import PeftConf, QuantConf
from tuneyard.values.base import ClusterOnly, Values
from tuneyard.values.batches import BatchSizes, resolve_batch_sizes
from tuneyard.values.canonical import canonical_json, cluster_only_keys, dump_yaml, values_sha256
from tuneyard.values.deliver import DeliverValues
from tuneyard.values.finetune import FinetuneValues
from tuneyard.values.finetuning import (
    Dataset,
    DpoArgs,
    EarlyStopping,
    Tracking,
    TrainingData,
)
from tuneyard.values.inference import InferenceValues
from tuneyard.values.load import check_values, load_values, read_values
from tuneyard.values.namespace import NamespaceValues
from tuneyard.values.places import ModelPlace, model_place
from tuneyard.values.public import ENV_KEYS, NOT_SHOWN, public_values, with_env, without_credentials
from tuneyard.values.rows import RowsConf
from tuneyard.values.servable import UNMERGEABLE, largest_rank, unserved_by_vllm, vllm_obstacles
from tuneyard.values.training import TrainingArgs
from tuneyard.values.without_effect import default_of

VALUES: dict[str, type[NamespaceValues] | type[DeliverValues] | type[FinetuneValues] | type[InferenceValues]] = {
    "namespace": NamespaceValues,
    "deliver": DeliverValues,
    "finetune": FinetuneValues,
    "serve": InferenceValues,
}
"""The values of each chart."""

__all__ = [
    "ENV_KEYS",
    "NOT_SHOWN",
    "UNMERGEABLE",
    "VALUES",
    "BatchSizes",
    "ClusterOnly",
    "Dataset",
    "DeliverValues",
    "DpoArgs",
    "EarlyStopping",
    "FinetuneValues",
    "InferenceValues",
    "ModelPlace",
    "NamespaceValues",
    "PeftConf",
    "QuantConf",
    "RowsConf",
    "Tracking",
    "TrainingArgs",
    "TrainingData",
    "Values",
    "canonical_json",
    "check_values",
    "cluster_only_keys",
    "default_of",
    "dump_yaml",
    "largest_rank",
    "load_values",
    "model_place",
    "public_values",
    "read_values",
    "resolve_batch_sizes",
    "unserved_by_vllm",
    "values_sha256",
    "vllm_obstacles",
    "with_env",
    "without_credentials",
]
