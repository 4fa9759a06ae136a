"""Delivers a base model and data to the store: streamed without a staged copy, verified, the manifest last.

The room's public face; the rest of it is private. It sits above `store` and `hub`, and knows nothing of training.
`python -m tuneyard.delivery VALUES --workdir DIR` does it as a process.
"""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import CancelledError
from pathlib import Path

from tuneyard.delivery.datasets import deliver_datasets, delivered_before
from tuneyard.delivery.models import deliver_model
from tuneyard.delivery.report import Delivered, DeliverReport, tell
from tuneyard.delivery.script import check_sandbox, run_script
from tuneyard.delivery.selection import split_globs
from tuneyard.delivery.vetting import vet_model
from tuneyard.delivery.weights import check_folder
from tuneyard.hub import Hub, Patience
from tuneyard.sandbox import Locks
from tuneyard.store import Store
from tuneyard.values import DeliverValues

__all__ = ["DeliverReport", "Delivered", "check_folder", "deliver", "vet_model"]


def deliver(
    values: DeliverValues,
    store: Store,
    *,
    workdir: Path,
    hub: Hub | None = None,
    downloads: Path | None = None,
    locks: Locks | None = None,
) -> DeliverReport:
    """Deliver the model and the data that values name.

    What is there already and is the same is not transferred again, and a delivery that was killed goes on file by
    file. Nothing counts as delivered before its manifest is written, which is the last step for each.

    Args:
        values: What to deliver, and where to.
        store: Where to.
        workdir: A folder of this machine for the data script; models never touch it.
        hub: The Hub to ask; the one that `HF_ENDPOINT` names where None.
        downloads: Where the data script has run already and left its files, in `datasets`; it is run here where None.
        locks: What confines the data script; this machine's locks where None.

    Returns:
        What was done for each.

    Raises:
        InvalidValuesError: A model would be delivered onto itself, `workdir` has a name that no script can take, or
            the sandbox that `dataScriptSandbox` requires is not to be had.
        InvalidDataError: A model has only pickle weights, or the data script fails or writes nothing.
        ConflictError: Something else is there and `allowOverwrite` is false, or another delivery runs there.
        IntegrityError: Bytes are not what the source declared of them.
        NotFoundError: The model, its revision, the folder or the bucket is not there.
        DeniedError: The Hub or the store refuses.
        UnavailableError: The Hub or the store can't be reached.
    """
    stop = threading.Event()
    folder = values.bucketDataDir
    known = None
    if values.dataScript and folder is not None and not values.allowOverwrite:
        known = delivered_before(store, folder, values.dataScript)
    runs_here = bool(values.dataScript) and known is None and downloads is None
    # Before gigabytes of a model are copied.
    if runs_here:
        locks = check_sandbox(required=values.dataScriptSandbox == "required", locks=locks)
    model = _model(values, store, hub, stop)
    if not values.dataScript or folder is None:
        return DeliverReport(store=store.url, model=model)
    if known is not None:
        for one in known:
            _tell_outcome(one)
        return DeliverReport(store=store.url, model=model, datasets=known, script="skipped")
    if downloads is None:
        environ = {**os.environ, "TUNEYARD_STORE": store.url}  # so that the store is none of the script's to read
        with_hub_token = bool(values.hfTokenSecret.name)
        output = run_script(values.dataScript, workdir, with_hub_token=with_hub_token, environ=environ, locks=locks)
    else:
        output = downloads / "datasets"
    datasets = deliver_datasets(
        store, folder, values.dataScript, output, allow_overwrite=values.allowOverwrite, stop=stop
    )
    if downloads is None:
        shutil.rmtree(output.parent)
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
