"""Removing what a finetuning run has published. Only ever done when it is asked for by name."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from tuneyard.errors import ConflictError, UsageError
from tuneyard.runners.info import RunInfo

if TYPE_CHECKING:
    from tuneyard.store import Store

_AT_ONCE = 500


def delete_published(info: RunInfo) -> int:
    """Remove every object of a run's experiment from its store.

    HEAD and the manifests go first: a reader that comes in between finds nothing instead of something broken.

    Args:
        info: A finetuning run that has ended.

    Returns:
        How many objects were removed.

    Raises:
        UsageError: If the run publishes none of its own.
        ConflictError: If the run still works.
    """
    from tuneyard.store import open_store

    check_removable(info)
    assert info.experiment
    return delete_experiment(open_store(info.store), info.experiment)


def check_removable(info: RunInfo, *, target: str = "") -> None:
    """Check that a run has published data that may be removed.

    Args:
        info: The run.
        target: What a command adds to reach it (`Runner.words`), for the hint.

    Raises:
        UsageError: If the run publishes none of its own.
        ConflictError: If the run still works.
    """
    if info.verb != "finetune" or not info.experiment:
        raise UsageError(
            f"The run {info.key} has no published data of its own.", hint="Leave --data out to delete the run alone."
        )
    if not info.ended:
        raise ConflictError(
            f"The run {info.key} still works, so its data can't be deleted.",
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
