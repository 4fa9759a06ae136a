"""Checkpoints in a store: committed completely or not at all, and verified when a run resumes.

The room's public face; the rest of it is private. It sits above `store` and copies folders of files: it loads no torch,
does not read the files, and leaves it to the trainer when to save.

    experiments/<run>/
      run.json                        the settings of the run; one entry per attempt
      metrics.jsonl                   every logged step
      tensorboard/                    event files, each of one attempt
      checkpoint-<step>-<attempt>/    data files, among them metrics.jsonl up to that step, then manifest.json
      HEAD                            the owning attempt and the newest committed checkpoint
      checkpoint-final[-merged]/      what can be served, with its manifest.json
"""

from tuneyard.checkpoints.attempt import FINAL_NAMES, Attempt, FinalName
from tuneyard.checkpoints.events import EVENTS_FOLDER, EventFiles
from tuneyard.checkpoints.experiment import Experiment, OnDamage, Restored
from tuneyard.checkpoints.fetch import read_checkpoint
from tuneyard.checkpoints.head import CheckpointRef, Head, Start, change_head, head_key, read_head
from tuneyard.checkpoints.metrics import METRICS_FILE, MetricsLog, parse_rows
from tuneyard.checkpoints.publisher import OnPublished, Publisher
from tuneyard.checkpoints.record import AttemptEntry, RunRecord, read_record, record_key
from tuneyard.checkpoints.retention import RetentionPolicy
from tuneyard.checkpoints.seal import check_seal

__all__ = [
    "EVENTS_FOLDER",
    "FINAL_NAMES",
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
    "check_seal",
    "head_key",
    "parse_rows",
    "read_checkpoint",
    "read_head",
    "read_record",
    "record_key",
]
