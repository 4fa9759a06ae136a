"""The model that a run trains: loaded and adapted, its attention, its rows, and the proof that each row is right.

    model, prompts       the base model and its adapter
    attention            per-conversation attention over flat rows
    batches, forms       rows of token ids, and how they go through a model
    isolation            the check, on the model itself, that no conversation affects another
    balance, dropout     the load-balancing loss, and dropout switched off
    recording, tracing   what a step computes and allocates, recorded on the model itself
    rehearsal, trackers  values tried on the libraries before a weight is read

Loads torch. Below `estimate` and `train`: what is counted is what is trained.
"""

from tuneyard.network.batches import IGNORED, EncodedRows, Row, flatten, moved
from tuneyard.network.dropout import disable_dropout, switch_off
from tuneyard.network.forms import Form, Forward, Scores
from tuneyard.network.isolation import RowForm, prove_form
from tuneyard.network.model import (
    add_adapter,
    available_attention,
    count_parameters,
    hold_trained_in,
    load_base,
    make_savable,
    name_base,
    quiet_libraries,
)
from tuneyard.network.recording import StepTrace
from tuneyard.network.rehearsal import (
    changed_entries,
    check_rows,
    config_arguments,
    configured_outline,
    rehearse,
    rehearse_adapter,
)
from tuneyard.network.tracing import Conversation, Traced, trace_step
from tuneyard.network.trackers import configure_mlflow, limit_waiting

__all__ = [
    "IGNORED",
    "Conversation",
    "EncodedRows",
    "Form",
    "Forward",
    "Row",
    "RowForm",
    "Scores",
    "StepTrace",
    "Traced",
    "add_adapter",
    "available_attention",
    "changed_entries",
    "check_rows",
    "config_arguments",
    "configure_mlflow",
    "configured_outline",
    "count_parameters",
    "disable_dropout",
    "flatten",
    "hold_trained_in",
    "limit_waiting",
    "load_base",
    "make_savable",
    "moved",
    "name_base",
    "prove_form",
    "quiet_libraries",
    "rehearse",
    "rehearse_adapter",
    "switch_off",
    "trace_step",
]
