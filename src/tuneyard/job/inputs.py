"""The inputs of a run according to manifests alone: model and data, and whether the run is finished with them.

Loads no torch, so that a finished run that is launched again ends at once, before any device is looked for.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tuneyard.checkpoints import Experiment, RunRecord
from tuneyard.delivery import find_dataset
from tuneyard.errors import NotFoundError
from tuneyard.job.fingerprint import assumed, fingerprint
from tuneyard.models import find_base
from tuneyard.progress import Notify
from tuneyard.store import Manifest, Store, find_store, pull
from tuneyard.values import FinetuneValues, canonical_json, public_values, values_sha256

_WEIGHTS = (".safetensors", ".gguf")

VERSIONED = ("tuneyard", "torch", "transformers", "peft", "accelerate", "tokenizers")
"""The packages whose versions are recorded with a run: they determine its numbers."""


@dataclass(frozen=True)
class Input:
    """A model or data file that a run takes.

    Attributes:
        key: Its key in the store.
        content_sha256: The hash of its content.
    """

    key: str
    content_sha256: str


@dataclass(frozen=True)
class Inputs:
    """All inputs of a run.

    Attributes:
        base: The base model.
        datasets: The data files, training first.
        fingerprint: What may not change under one experiment.
        versions: Versions of the packages that determine the numbers.
    """

    base: Input
    datasets: tuple[Input, ...]
    fingerprint: Mapping[str, Any]
    versions: Mapping[str, str]

    @staticmethod
    def of(facts: Mapping[str, Any]) -> Inputs:
        """Restore it from the result of `dataclasses.asdict`."""
        datasets = tuple(Input(**entry) for entry in facts["datasets"])
        return Inputs(Input(**facts["base"]), datasets, facts["fingerprint"], facts["versions"])

    def record(self, values: FinetuneValues) -> RunRecord:
        """Make the record that an attempt claims the run with."""
        return RunRecord(
            name=run_name(values),
            values=public_values(json.loads(canonical_json(values))),
            values_sha256=values_sha256(values),
            versions=self.versions,
            inputs={entry.key: entry.content_sha256 for entry in (self.base, *self.datasets)},
            fingerprint=self.fingerprint,
        )


def open_values_store(values: FinetuneValues) -> Store:
    """Open the store of a training process: `TUNEYARD_STORE`, else the values' own, else the local one."""
    return find_store(fallback=values.bucketStorageHost)


def run_name(values: FinetuneValues) -> str:
    """Name a run by the last part of its `checkpointsRemote`."""
    return experiment_key(values).rsplit("/", 1)[-1]


def experiment_key(values: FinetuneValues) -> str:
    """Return the key of the run's checkpoints."""
    assert values.checkpointsRemote, "it is set when a run is launched"
    return values.checkpointsRemote.rstrip("/")


def find_inputs(values: FinetuneValues, store: Store) -> Inputs:
    """Look up model and data, and check that the run was started with the same, as far as that is known now.

    Args:
        values: The resolved values.
        store: The store of model, data and checkpoints.

    Returns:
        The inputs of the run.

    Raises:
        NotFoundError: If model or data are not delivered.
        InvalidValuesError: If the base model is incomplete.
        ConflictError: If the run was started with other settings.
    """
    sizes = values.batch_sizes
    base, datasets = find_delivered(values, store)
    digests = {entry.key: entry.content_sha256 for entry in datasets}
    frozen = fingerprint(values, base.content_sha256, digests, sizes)
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONED}}
    inputs = Inputs(base=base, datasets=datasets, fingerprint=frozen, versions=versions)
    experiment_of(values, store).check(inputs.record(values), partial=True)
    return inputs


def find_delivered(values: FinetuneValues, store: Store) -> tuple[Input, tuple[Input, ...]]:
    """Look up the base model and the data files of a run.

    Args:
        values: The resolved values.
        store: The store that holds them.

    Returns:
        The base model, and the files in the order of the values, those for training first.

    Raises:
        NotFoundError: One is not delivered.
    """
    base = Input(values.basemodel, find_base(store, values.basemodel).content_sha256)
    keys = dict.fromkeys([*training_keys(values), *validation_keys(values)])
    return base, tuple(Input(key, find_dataset(store, key).content_sha256) for key in keys)


def experiment_of(values: FinetuneValues, store: Store, *, required: frozenset[str] = frozenset()) -> Experiment:
    """Open the experiment that values name.

    Args:
        values: The resolved values.
        store: The store that holds it.
        required: Files that a checkpoint must have.
    """
    return Experiment(store, experiment_key(values), required=required, assumed=assumed())


def wait_for_delivery(
    values: FinetuneValues, store: Store, seconds: float, stop: Callable[[], bool], notify: Notify
) -> bool:
    """Wait until model and data are delivered, or the time is up; then `find_inputs` reports what is missing.

    Only a missing delivery is waited for: a store that can't be reached, or denies access, raises.

    Args:
        values: The resolved values.
        store: The store of model and data.
        seconds: How long to wait.
        stop: Whether the process was requested to stop.
        notify: Called once, with what is missing.

    Returns:
        False if it was requested to stop.
    """
    until, gap, notified = time.monotonic() + seconds, 1.0, False
    while time.monotonic() < until:
        if stop():
            return False
        try:
            find_delivered(values, store)
        except NotFoundError as error:
            if not notified:
                notify(f"Waiting up to {seconds:.0f} s: {error.message}")
                notified = True
        else:
            return True
        pause = time.monotonic() + min(gap, until - time.monotonic())
        while time.monotonic() < pause and not stop():
            time.sleep(0.1)
        gap = min(gap * 1.5, 15.0)
    return not stop()


def is_complete(values: FinetuneValues, store: Store) -> bool:
    """Whether the run is finished, and its adapter merged if configured."""
    experiment = experiment_of(values, store)
    final = experiment.finished()
    if final is None or not values.mergeAdapter:
        return final is not None
    merged = experiment.finished("checkpoint-final-merged")
    # It must be merged from this adapter, not from one published before; older manifests don't name theirs.
    return merged is not None and merged.about.get("adapter") in (None, {"content_sha256": final.content_sha256})


def training_keys(values: FinetuneValues) -> list[str]:
    """Return the keys of the training files."""
    return [dataset.path for dataset in values.finetuning_config.data_conf.training_data.datasets]


def validation_keys(values: FinetuneValues) -> list[str]:
    """Return the keys of the validation files; none if validation rows are split off."""
    return [dataset.path for dataset in values.finetuning_config.data_conf.validation_data.datasets]


def pull_dataset(store: Store, key: str, workdir: Path) -> Path:
    """Download a delivered data file, verified.

    Args:
        store: The store that holds it.
        key: Its key.
        workdir: The process's folder; the file is stored in a subfolder.

    Returns:
        The file; read it, never write into it.

    Raises:
        NotFoundError, IntegrityError: As `find_dataset` and `pull`.
    """
    folder, _, name = key.rpartition("/")
    return pull(store, f"{folder}/", find_dataset(store, key), workdir / "data" / key) / name


def pull_settings(store: Store, key: str, manifest: Manifest, folder: Path) -> Path:
    """Download a model's files except the weights, verified, and return their folder.

    Args:
        store: The store that holds it.
        key: Its key.
        manifest: Its manifest.
        folder: The target folder.
    """
    small = tuple(entry for entry in manifest.files if not entry.path.endswith(_WEIGHTS))
    return pull(store, f"{key.strip('/')}/", Manifest("model", small, manifest.about), folder)
