"""Encodes the data and verifies the base model, on the CPU, before a device is used.

Runs once per launch, in the supervising process; the workers read the result from one file, `prepared.json`. The checks
are ordered by cost: unsupported values, the device, then bytes, then every row of the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tuneyard.data import SHARED_TEMPLATES, Encoded
from tuneyard.delivery import vet_model
from tuneyard.device import Device, choose_device
from tuneyard.job import (
    ROWS,
    TEMPLATE_TIME,
    Inputs,
    encoded_rows,
    experiment_of,
    precision_of,
    pull_dataset,
    refuse_unsupported,
    training_keys,
    validation_keys,
)
from tuneyard.models import find_base
from tuneyard.network import EncodedRows, check_rows, configured_outline, rehearse, rehearse_adapter
from tuneyard.progress import Notify, progress_bar
from tuneyard.store import Store, pull
from tuneyard.values import FinetuneValues

PREPARED_FILE = "prepared.json"


@dataclass(frozen=True)
class Prepared:
    """What a worker needs besides the values.

    Attributes:
        inputs: What goes into the run.
        base_folder: The base model's verified files on this machine.
        rows_folder: The encoded training conversations (`EncodedRows`).
        validation_folder: The encoded validation conversations, or an empty string.
        device: The device of the training.
        stored_dtype: The type that the base model is stored in, by torch's name.
        total: Conversations per optimizer step.
        per_device: Conversations per micro-batch.
        accumulation: Micro-batches per step and process.
        trained: Whether the run is trained already and only the merged model is missing.
    """

    inputs: Inputs
    base_folder: str
    rows_folder: str
    validation_folder: str
    device: Device
    stored_dtype: str
    total: int
    per_device: int
    accumulation: int
    trained: bool

    def write(self, workdir: Path) -> None:
        """Write it for the workers."""
        (workdir / PREPARED_FILE).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(workdir: Path) -> Prepared:
        """Read the file that `write` wrote."""
        facts: dict[str, Any] = json.loads((workdir / PREPARED_FILE).read_text(encoding="utf-8"))
        return Prepared(inputs=Inputs.of(facts.pop("inputs")), **facts)


def prepare(values: FinetuneValues, inputs: Inputs, store: Store, workdir: Path, notify: Notify) -> Prepared:
    """Check everything and make the data ready.

    Args:
        values: The resolved values.
        inputs: What goes into the run.
        store: The store of model, data and checkpoints.
        workdir: A folder of this run on this machine.
        notify: Called with each deviation from the configuration, and why it is equivalent.

    Returns:
        What the workers need.

    Raises:
        InvalidValuesError: For what can't be trained, or is refused by a library; every such key at once.
        AcceleratorMissingError: If accelerators are requested but not present.
        InvalidDataError: With every bad row.
        ConflictError: If the run was started with other rows.
        IncompleteModelError: If the base model's files don't hold the weights that its config names.
        IntegrityError: If delivered bytes differ from their manifest.
    """
    refuse_unsupported(values, notify)
    device = choose_device(values.gpuResource, values.finetuningGpus, key="finetuningGpus")
    sizes = values.batch_sizes
    manifest = find_base(store, values.basemodel)
    with progress_bar("Verifying the base model", manifest.size, "bytes") as advance:
        base_folder = pull(store, values.basemodel.rstrip("/") + "/", manifest, workdir / "base", advance=advance)
    vet_model(base_folder, [entry.path for entry in manifest.files], where=values.basemodel)
    rehearse(values, base_folder, device)
    outline = configured_outline(values, base_folder)
    stored = str(outline.dtype).removeprefix("torch.")
    if notice := precision_of(values, stored, device).notice:
        notify(notice)
    files = {key: pull_dataset(store, key, workdir) for key in [*training_keys(values), *validation_keys(values)]}
    experiment = experiment_of(values, store)
    known = experiment.fingerprint() or {}
    time = str(known.get(TEMPLATE_TIME) or datetime.now().isoformat(timespec="seconds"))
    SHARED_TEMPLATES.now = datetime.fromisoformat(time)
    rows, validation = encode(
        values,
        base_folder,
        [files[key] for key in training_keys(values)],
        [files[key] for key in validation_keys(values)],
        workdir,
        notify,
    )
    SHARED_TEMPLATES.close()  # nothing is rendered during training
    for folder in (rows, validation):
        if folder:
            encoded = EncodedRows(folder)
            largest, room = encoded.largest_ids, values.virtual_tokens
            check_rows(outline, encoded.lengths, largest, encoded.place, virtual_tokens=room)
    rehearse_adapter(values, outline, base_folder)
    trained = experiment.finished() is not None
    # A finished run keeps what it was trained on, however a newer tokenizer encodes the data.
    digest = known.get(ROWS) if trained else _sha256(rows, validation)
    inputs = replace(inputs, fingerprint={**inputs.fingerprint, ROWS: digest, TEMPLATE_TIME: time})
    experiment.check(inputs.record(values))
    return Prepared(
        inputs=inputs,
        base_folder=str(base_folder),
        rows_folder=str(rows),
        validation_folder=str(validation or ""),
        device=device,
        stored_dtype=stored,
        total=sizes.total,
        per_device=sizes.per_device,
        accumulation=sizes.accumulation,
        trained=trained,
    )


def _sha256(rows: Path, validation: Path | None) -> str:
    digests = [EncodedRows(folder).content_sha256 for folder in (rows, validation) if folder]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def encode(
    values: FinetuneValues,
    base_folder: Path,
    training_files: Sequence[Path],
    validation_files: Sequence[Path],
    workdir: Path,
    notify: Notify,
) -> tuple[Path, Path | None]:
    """Check, encode and split all rows, and write them to disk.

    Args:
        values: The resolved values.
        base_folder: The base model, for its tokenizer and chat template.
        training_files: Files of conversations.
        validation_files: The same for validation, if it has separate files.
        workdir: Where `rows` and `validation` go.
        notify: Called with what a mix takes of each file.

    Returns:
        The two folders; None where there is no validation.

    Raises:
        InvalidDataError: With every bad row, or where nothing is left to train on.
    """
    rows, validation = encoded_rows(values, base_folder, training_files, validation_files, notify)
    _write(workdir / "rows", rows)
    if not validation:
        return workdir / "rows", None
    _write(workdir / "validation", validation)
    return workdir / "rows", workdir / "validation"


def _write(folder: Path, rows: Sequence[Encoded]) -> None:
    EncodedRows.write(folder, ((row.input_ids, row.loss_mask) for row in rows), [row.where for row in rows])
