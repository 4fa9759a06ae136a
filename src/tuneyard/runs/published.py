"""Removing what a finetuning run has published. Only ever done when it is asked for by name."""

from __future__ import annotations

from itertools import islice

from tuneyard.errors import ConflictError, UsageError
from tuneyard.runs.info import RunInfo

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

    if info.verb != "finetune" or not info.experiment:
        raise UsageError(
            f"The run {info.key} has no published data of its own.", hint="Leave --data out to delete the run alone."
        )
    if not info.ended:
        raise ConflictError(
            f"The run {info.key} still works, so its data can't be deleted.",
            hint=f"Stop it first: tuneyard stop {info.key}",
        )
    store = open_store(info.store)
    keys = [entry.key for entry in store.list(f"{info.experiment.rstrip('/')}/")]
    keys.sort(key=lambda key: (not key.endswith("/HEAD"), not key.endswith("/manifest.json"), key))
    rest = iter(keys)
    while batch := list(islice(rest, _AT_ONCE)):
        store.delete(batch)
    return len(keys)
