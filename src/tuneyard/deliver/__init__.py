"""Delivers a base model and data to the store: streamed without a staged copy, verified, the manifest last.

The room's public face; the rest of it is private. It sits above `store` and `hub`, and knows nothing of training.
`python -m tuneyard.deliver VALUES --workdir DIR` does it as a process.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

from tuneyard.deliver.datasets import deliver_datasets, delivered_before
from tuneyard.deliver.models import deliver_model
from tuneyard.deliver.report import Delivered, DeliverReport, tell
from tuneyard.deliver.selection import split_globs
from tuneyard.deliver.vetting import vet_model
from tuneyard.hub import Hub, Patience
from tuneyard.store import Store
from tuneyard.values import DeliverValues

__all__ = ["DeliverReport", "Delivered", "deliver", "vet_model"]


def deliver(values: DeliverValues, store: Store, *, workdir: Path, hub: Hub | None = None) -> DeliverReport:
    """Deliver the model and the data that values name.

    What is there already and is the same is not transferred again, and a delivery that was killed goes on file by
    file. Nothing counts as delivered before its manifest is written, which is the last step for each.

    Args:
        values: What to deliver, and where to.
        store: Where to.
        workdir: A folder of this machine for the data script; models never touch it.
        hub: The Hub to ask; the one that `HF_ENDPOINT` names where None.

    Returns:
        What was done for each.

    Raises:
        InvalidValuesError: A model would be delivered onto itself, or `workdir` has a name that no script can take.
        InvalidDataError: A model has only pickle weights, or the data script fails or writes nothing.
        ConflictError: Something else is there and `allowOverwrite` is false, or another delivery runs there.
        IntegrityError: Bytes are not what the source declared of them.
        NotFoundError: The model, its revision, the folder or the bucket is not there.
        DeniedError: The Hub or the store refuses.
        UnavailableError: The Hub or the store can't be reached.
    """
    stop = threading.Event()
    model = _model(values, store, hub, stop)
    folder = values.bucketDataDir
    if not values.dataScript or folder is None:
        return DeliverReport(store=store.url, model=model)
    there = None if values.allowOverwrite else delivered_before(store, folder, values.dataScript)
    if there is not None:
        for one in there:
            _tell_outcome(one)
        return DeliverReport(store=store.url, model=model, datasets=there, script="skipped")
    datasets = deliver_datasets(
        store,
        folder,
        values.dataScript,
        workdir=workdir,
        with_hub_token=bool(values.hfTokenSecret.name),
        allow_overwrite=values.allowOverwrite,
        stop=stop,
    )
    for one in datasets:
        _tell_outcome(one)
    return DeliverReport(store=store.url, model=model, datasets=datasets, script="run")


def _model(values: DeliverValues, store: Store, hub: Hub | None, stop: threading.Event) -> Delivered | None:
    if values.modelID is None or values.bucketModelPath is None:
        return None

    def sleep(seconds: float) -> None:
        if stop.wait(seconds):
            raise CancelledError

    model = deliver_model(
        store,
        values.bucketModelPath,
        values.modelID,
        revision=values.modelRevision,
        exclude=tuple(glob for text in values.downloadExcludeGlob for glob in split_globs(text)),
        allow_overwrite=values.allowOverwrite,
        hub=lambda: hub or Hub(patience=Patience(sleep=sleep)),
        stop=stop,
    )
    _tell_outcome(model)
    return model


def _tell_outcome(one: Delivered) -> None:
    if one.status == "unchanged":
        tell(f"unchanged: {one.key} ({one.files} files, {one.size} bytes)")
    else:
        moved = f"{one.transferred_files} of {one.files} files, {one.transferred_bytes} of {one.size} bytes transferred"
        tell(f"{one.status}: {one.key} from {one.source} ({moved})")
