"""The checks of any target."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tuneyard.diagnosis.check import Report
from tuneyard.diagnosis.kubernetes import check_kubernetes
from tuneyard.diagnosis.local import check_local
from tuneyard.errors import UsageError
from tuneyard.runners import Target, cluster_of


def check_target(
    target: Target,
    *,
    store: str | None = None,
    files: Sequence[str | os.PathLike[str]] = (),
    sets: Sequence[str] = (),
    bucket: str,
    quick: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check that a target's prerequisites are in place.

    Args:
        target: Which target.
        store: This machine's store; None uses the default one.
        files: Values files of a run, for a cluster.
        sets: Texts of `--set`, for a cluster.
        bucket: The bucket to write into.
        quick: Whether to start no pod.
        progress: Called with the name of each check before it runs.

    Raises:
        UsageError: If the target does not support an argument.
        InvalidValuesError: If the values are not those of any verb.
        NotFoundError: If a values file does not exist.
    """
    cluster = cluster_of(target)
    if cluster is None:
        if given := [name for name, value in (("--values", files), ("--set", sets)) if value]:
            raise UsageError(
                f"{' and '.join(given)} can't be used on this machine.",
                hint="Check a cluster: tuneyard doctor --on kubernetes -f values.yaml",
            )
        return check_local(store=store, bucket=bucket, progress=progress)
    if store:
        raise UsageError(
            "--store is for this machine; the values configure a cluster's store.",
            hint="Omit it: tuneyard doctor --on kubernetes -f values.yaml",
        )
    return check_kubernetes(
        context=cluster.context,
        namespace=cluster.namespace,
        files=[Path(file) for file in files],
        sets=sets,
        bucket=bucket,
        quick=quick,
        progress=progress,
    )
