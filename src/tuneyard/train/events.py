"""TensorBoard's event files of a training, written by transformers' callback and published by `checkpoints`."""

from __future__ import annotations

import shlex
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from transformers import Trainer
from transformers.integrations import TensorBoardCallback

from tuneyard.checkpoints import EVENTS_FOLDER, EventFiles
from tuneyard.store import Store
from tuneyard.whereabouts import fitting


def write_events(trainer: Trainer, files: EventFiles, from_step: int) -> bool:
    """Let the trainer's TensorBoard callback, where it has one, write an attempt's own event file.

    Args:
        trainer: Before it trains, on the main process.
        files: The folder and the suffix of the file.
        from_step: The step that the attempt resumes from. TensorBoard hides what earlier files have after it, as
            `metrics.jsonl` drops those rows.

    Returns:
        Whether it has such a callback.
    """
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            purge = from_step + 1 if from_step else 0
            folder = str(files.folder)
            callback.tb_writer = SummaryWriter(folder, purge_step=purge, filename_suffix=files.suffix)
            return True
    return False


def how_to_view(store: Store, prefix: str, workdir: Path) -> str:
    """Describe in one line how to view the events while they are written.

    Args:
        store: The store that they are published to.
        prefix: The experiment's key.
        workdir: The process's folder.
    """
    key = f"{prefix}/{EVENTS_FOLDER}"
    folder = store.local_path(key) or workdir / EVENTS_FOLDER
    machine = f"To view this run in TensorBoard: tensorboard --logdir {shlex.quote(str(folder))}"
    pod = (
        f"TensorBoard's event files are published to {store.url.rstrip('/')}/{key} during training."
        " To view them, copy that folder and run: tensorboard --logdir FOLDER"
    )
    return fitting(machine, pod)
