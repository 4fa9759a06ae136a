"""What is known of a training job without torch: its inputs, what is supported, its distribution, rows and fingerprint.

    inputs         which model and data go in, and whether the run is finished with them
    supported      what this version trains, and the refusal of the rest
    distribution   processes, nodes and shards
    targets        which modules an adapter is placed on
    rows, mix      the conversations, encoded, divided and mixed
    precision      the types of weights and steps
    fingerprint    what may not change between attempts
    source         the data of a job on this machine, to be checked or shown

Below `estimate` and `train`, which both read it, and above `values`, `data`, `models` and `checkpoints`.
"""

from tuneyard.job.distribution import shards
from tuneyard.job.fingerprint import ROWS, TEMPLATE_TIME
from tuneyard.job.inputs import (
    Inputs,
    experiment_key,
    experiment_of,
    find_delivered,
    find_inputs,
    is_complete,
    open_values_store,
    pull_dataset,
    pull_settings,
    run_name,
    training_keys,
    validation_keys,
    wait_for_delivery,
)
from tuneyard.job.precision import Precision, precision_of
from tuneyard.job.rows import encoded_rows, encoder_of
from tuneyard.job.source import CheckedData, ShownRow, check_source, open_source, show_source
from tuneyard.job.supported import refuse_unsupported
from tuneyard.job.targets import WHERE, refuse_unmatched

__all__ = [
    "ROWS",
    "TEMPLATE_TIME",
    "WHERE",
    "CheckedData",
    "Inputs",
    "Precision",
    "ShownRow",
    "check_source",
    "encoded_rows",
    "encoder_of",
    "experiment_key",
    "experiment_of",
    "find_delivered",
    "find_inputs",
    "is_complete",
    "open_source",
    "open_values_store",
    "precision_of",
    "pull_dataset",
    "pull_settings",
    "refuse_unmatched",
    "refuse_unsupported",
    "run_name",
    "shards",
    "show_source",
    "training_keys",
    "validation_keys",
    "wait_for_delivery",
]
