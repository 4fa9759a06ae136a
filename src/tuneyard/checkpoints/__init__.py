"""Checkpoints in a store: committed or not there, never half; found again, verified, by whoever goes on.

The room's public face; everything else in it is private. It sits above `store` and moves folders of files: it loads no
torch and knows nothing of what is in them. When to save is the trainer's to decide.

    experiments/<run>/
      run.json                        what it was trained with; one entry per attempt
      metrics.jsonl                   every logged step
      tensorboard/                    event files, each of one attempt
      checkpoint-<step>-<attempt>/    data files, its own metrics.jsonl up to there among them, then manifest.json
      HEAD                            the owning attempt and the newest committed checkpoint
      checkpoint-final[-merged]/      what serving takes, with its manifest.json
"""

from tuneyard.checkpoints.attempt import Attempt, FinalName
from tuneyard.checkpoints.events import EVENTS_FOLDER, EventFiles
from tuneyard.checkpoints.experiment import Experiment, OnDamage, Restored
from tuneyard.checkpoints.head import CheckpointRef, Head, Start, change_head, read_head
from tuneyard.checkpoints.metrics import METRICS_FILE, MetricsLog, parse_rows
from tuneyard.checkpoints.publisher import OnPublished, Publisher
from tuneyard.checkpoints.record import AttemptEntry, RunRecord
from tuneyard.checkpoints.retention import RetentionPolicy

__all__ = [
    "EVENTS_FOLDER",
    "METRICS_FILE",
    "Attempt",
    "AttemptEntry",
    "CheckpointRef",
    "EventFiles",
    "Experiment",
    "FinalName",
    "Head",
    "MetricsLog",
    "OnDamage",
    "OnPublished",
    "Publisher",
    "Restored",
    "RetentionPolicy",
    "RunRecord",
    "Start",
    "change_head",
    "parse_rows",
    "read_head",
]
