"""What a finetuning run reads and publishes in the store: checked before a launch, deleted on request."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tuneyard.errors import ConflictError, NotFoundError, UsageError
from tuneyard.runners.info import RunInfo

if TYPE_CHECKING:
    from tuneyard.runners.base import VerbValues
    from tuneyard.store import Store

_AT_ONCE = 500


def check_delivered(store_url: str, values: VerbValues) -> None:
    """Check that the base model and every dataset of a finetuning run have been delivered.

    Args:
        store_url: Where they should be.
        values: The run's values; other verbs read nothing.

    Raises:
        NotFoundError: If one has not been delivered.
    """
    from tuneyard.job import find_delivered
    from tuneyard.store import open_store
    from tuneyard.values import FinetuneValues

    if isinstance(values, FinetuneValues):
        find_delivered(values, open_store(store_url))


def check_model(store: Store, model: str, run: str, info: RunInfo | None) -> None:
    """Check that a run has published a model.

    Args:
        store: Where it publishes.
        model: The model's key.
        run: The run's name, for messages.
        info: The run's state; None where this machine knows no such run.

    Raises:
        NotFoundError: If there is no such model.
    """
    from tuneyard.store import place_of_result

    manifest = place_of_result(model).manifest_key
    try:
        store.head(manifest)
    except NotFoundError as error:
        if info is None:
            message = f"There is no finetuning run named {run!r}, and nothing at '{model}' in '{store.url}'."
            hint = "List the runs: tuneyard runs"
        else:
            message = f"The run {run!r} has not published {model.rpartition('/')[2]}; it is {info.status}."
            hint = {
                "running": f"Wait for it: tuneyard watch {run}",
                "succeeded": "Finetune with --set mergeAdapter=true to get a merged model, or omit --merged.",
            }.get(info.status, f"See why: tuneyard logs {run}")
        raise NotFoundError(message, hint=hint, key=manifest, store=store.url) from error


def delete_published(info: RunInfo) -> int:
    """Remove every object of a run's experiment from its store.

    HEAD and the manifests are deleted first: a reader in between finds nothing rather than something broken.

    Args:
        info: A finetuning run that has ended.

    Returns:
        How many objects were removed.

    Raises:
        UsageError: If the run has no published data of its own.
        ConflictError: If the run is still running.
    """
    from tuneyard.store import open_store

    check_removable(info)
    assert info.experiment
    return delete_experiment(open_store(info.store), info.experiment)


def check_removable(info: RunInfo, *, target: str = "") -> None:
    """Check that a run has published data that may be removed.

    Args:
        info: The run.
        target: What a command adds to reach it (`Runner.options`), for the hint.

    Raises:
        UsageError: If the run has no published data of its own.
        ConflictError: If the run is still running.
    """
    if info.verb != "finetune" or not info.experiment:
        raise UsageError(
            f"The run '{info.key}' has no published data of its own.", hint="Omit --data to delete the run alone."
        )
    if not info.ended:
        raise ConflictError(
            f"The run '{info.key}' is still running, so its data can't be deleted.",
            hint=f"Stop it first: tuneyard stop {info.key}{target}",
        )


def delete_experiment(store: Store, experiment: str) -> int:
    """Remove every object below an experiment's place, HEAD and the manifests first.

    Args:
        store: The store.
        experiment: The place, as `bucket/key`.

    Returns:
        How many objects were removed.
    """
    from tuneyard.store import MANIFEST

    keys = [entry.key for entry in store.list(f"{experiment.rstrip('/')}/")]
    keys.sort(key=lambda key: (not key.endswith("/HEAD"), not key.endswith(f"/{MANIFEST}"), key))
    rest = iter(keys)
    while batch := list(islice(rest, _AT_ONCE)):
        store.delete(batch)
    return len(keys)
