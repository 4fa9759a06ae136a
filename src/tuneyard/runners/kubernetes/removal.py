"""Deletes what a run has published, from inside the cluster, since this machine may not reach the store.

A Job like the run's own, with the same image, keys, authorities and values, runs `pod_removal`. If `TUNEYARD_STORE`
names the store for this machine, no Job is needed.
"""

from __future__ import annotations

import time
from dataclasses import replace

from tuneyard.cluster import Document, Reader, Tools, one_off_spec, termination_of
from tuneyard.errors import UnavailableError
from tuneyard.interpreter import pod_python
from tuneyard.runners.info import RunInfo
from tuneyard.runners.published import check_removable, delete_published
from tuneyard.store import configured_store

REMOVAL_SECONDS = 600
_POLL_SECONDS = 1.0


def remove_published(reader: Reader, tools: Tools, info: RunInfo, owner: Document) -> int:
    """Remove every object of a run's experiment.

    Args:
        reader: Where the run is.
        tools: kubectl for it.
        info: The run's state.
        owner: Its Job.

    Returns:
        How many objects were removed.

    Raises:
        UsageError: If the run has no published data of its own.
        ConflictError: If the run is still running.
        UnavailableError: If the store can't be reached.
    """
    check_removable(info, target=" --on kubernetes")
    if store := configured_store():
        return delete_published(replace(info, store=store))
    job = removal_job(owner, f"{info.name}-removal")
    name = job["metadata"]["name"]
    _delete(tools, name)
    tools.apply([job])
    try:
        return _removed(reader, name)
    finally:
        _delete(tools, name)


def removal_job(owner: Document, name: str) -> Document:
    """Make the Job that deletes a run's data, with a one-off pod like the run's.

    Args:
        owner: The run's Job.
        name: The new Job's name.
    """
    command = pod_python("tuneyard.runners.kubernetes.pod_removal", "/etc/tuneyard/values/values.json")
    pod = one_off_spec(owner["spec"]["template"]["spec"], "removal", command)
    labels = {"app.kubernetes.io/part-of": "tuneyard", "app.kubernetes.io/component": "removal"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": REMOVAL_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _removed(reader: Reader, name: str) -> int:
    until = time.monotonic() + REMOVAL_SECONDS
    while time.monotonic() < until:
        for pod in reader.list("Pod", {"batch.kubernetes.io/job-name": name}):
            end = termination_of(pod)
            if end and end.exit_code == 0:
                *_, count = reader.log(pod["metadata"]["name"], "removal", tail_lines=1)
                return int(count)
            if end:
                raise UnavailableError(f"The data was not deleted: {end.error}", hint=end.hint)
        time.sleep(_POLL_SECONDS)
    raise UnavailableError(
        f"The data was not deleted within {REMOVAL_SECONDS} s.", hint=f"See why: kubectl describe job {name}"
    )


def _delete(tools: Tools, name: str) -> None:
    tools.kubectl("delete", "job", name, "--ignore-not-found", "--cascade=foreground", "--wait")
