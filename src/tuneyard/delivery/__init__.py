"""Delivers a base model and datasets to the store: streamed without a local copy, verified, the manifest last.

The room's public face; the rest of it is private. It sits above `store` and `hub`, and knows nothing of training.
`python -m tuneyard.delivery VALUES --workdir DIR` runs it as a process.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.delivery.datasets import deliver_datasets, delivered_before, find_dataset
from tuneyard.delivery.models import deliver_model
from tuneyard.delivery.report import Delivered, DeliverReport
from tuneyard.delivery.script import check_sandbox, run_script
from tuneyard.delivery.selection import split_globs
from tuneyard.delivery.vetting import vet_model
from tuneyard.delivery.weights import check_folder
from tuneyard.sandbox import Locks
from tuneyard.store import STORE_VARIABLE, Store
from tuneyard.values import DeliverValues

if TYPE_CHECKING:
    from tuneyard.hub import Hub

logger = logging.getLogger(__name__)

__all__ = ["DeliverReport", "Delivered", "check_folder", "deliver", "find_dataset", "vet_model"]


def deliver(
    values: DeliverValues,
    store: Store,
    *,
    workdir: Path,
    hub: Hub | None = None,
    downloads: Path | None = None,
    locks: Locks | None = None,
) -> DeliverReport:
    """Deliver the model and the datasets that values name.

    What the store already holds is not transferred, and a delivery that was killed resumes file by file. Nothing
    counts as delivered before its manifest is written, which is the last step for each.

    Args:
        values: What to deliver, and where to.
        store: The store to deliver to.
        workdir: A local folder for the `dataScript`; models are never written to it.
        hub: The Hub to fetch from; the one that `HF_ENDPOINT` names where None.
        downloads: Where the `dataScript` has already run and left its files, in `datasets`; it is run here where None.
        locks: What confines the `dataScript`; this machine's locks where None.

    Returns:
        What was delivered.

    Raises:
        InvalidValuesError: A model would be delivered onto itself, `workdir` has a name that can't stand in a script,
            or this machine lacks the sandbox that `dataScriptSandbox` requires.
        InvalidDataError: A model has only pickle weights, or the `dataScript` fails or writes nothing.
        ConflictError: Other content is there and `allowOverwrite` is false, or another delivery is in progress.
        IntegrityError: Bytes differ from what the source declares.
        NotFoundError: The model, its revision, the folder or the bucket does not exist.
        DeniedError: The Hub or the store denies access.
        UnavailableError: The Hub or the store can't be reached.
    """
    stop = threading.Event()
    folder = values.bucketDataDir
    known = None
    if values.dataScript and folder is not None and not values.allowOverwrite:
        known = delivered_before(store, folder, values.dataScript)
    runs_here = bool(values.dataScript) and known is None and downloads is None
    # Checked before gigabytes of a model are copied.
    if runs_here:
        locks = check_sandbox(required=values.dataScriptSandbox == "required", locks=locks)
    model = _model(values, store, hub, stop)
    if not values.dataScript or folder is None:
        return DeliverReport(store=store.url, model=model)
    if known is not None:
        for one in known:
            _log_outcome(one)
        return DeliverReport(store=store.url, model=model, datasets=known, script="skipped")
    if downloads is None:
        environ = {**os.environ, STORE_VARIABLE: store.url}  # so that the sandbox hides the store from the script
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
        _log_outcome(one)
    return DeliverReport(store=store.url, model=model, datasets=datasets, script="run")


def _model(values: DeliverValues, store: Store, hub: Hub | None, stop: threading.Event) -> Delivered | None:
    if values.modelID is None or values.bucketModelPath is None:
        return None
    from tuneyard.hub import Hub, RetryPolicy  # whose client takes long to import

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
        hub=lambda: hub or Hub(retry_policy=RetryPolicy(sleep=sleep)),
        stop=stop,
    )
    _log_outcome(model)
    return model


def _log_outcome(one: Delivered) -> None:
    if one.status == "unchanged":
        logger.info("Unchanged: '%s' (%d files, %d bytes).", one.key, one.files, one.size)
    else:
        files = f"{one.transferred_files} of {one.files} files"
        size = f"{one.transferred_bytes} of {one.size} bytes"
        logger.info("%s: '%s' from '%s' (%s, %s transferred).", one.status.title(), one.key, one.source, files, size)
