"""The checks of a target, whichever it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tuneyard.diagnosis.check import Report
from tuneyard.diagnosis.kubernetes import check_kubernetes
from tuneyard.diagnosis.local import check_local
from tuneyard.errors import UsageError
from tuneyard.runners import Kubernetes, Target


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
        store: This machine's store; None takes the usual one.
        files: Values files of a run, for a cluster.
        sets: Texts of `--set`, for a cluster.
        bucket: The bucket to write into.
        quick: Whether to start no pod.
        progress: Called with the name of each check before it is made.

    Raises:
        UsageError: If the target takes no such argument.
        InvalidValuesError: If the values fit no verb.
        NotFoundError: If a values file is not there.
    """
    if target == "local":
        if given := [name for name, value in (("--values", files), ("--set", sets)) if value]:
            raise UsageError(f"{' and '.join(given)} needs --on kubernetes.", hint="tuneyard doctor --on kubernetes")
        return check_local(store=store, bucket=bucket, progress=progress)
    if store:
        raise UsageError(
            "--store is for this machine; on a cluster the values name the store.",
            hint="tuneyard doctor --on kubernetes -f values.yaml",
        )
    place = target if isinstance(target, Kubernetes) else Kubernetes()
    return check_kubernetes(
        context=place.context,
        namespace=place.namespace,
        files=[Path(file) for file in files],
        sets=sets,
        bucket=bucket,
        quick=quick,
        progress=progress,
    )
