"""The state of a Job or a Deployment and its pods. Pure, except that events are fetched only where needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneyard.cluster import pods as p
from tuneyard.cluster.demand import QUEUE_LABEL
from tuneyard.cluster.queues import eviction, evictions, waiting_in_queue, workload_of
from tuneyard.cluster.reader import Document

STOPPED = "tuneyard.io/stopped-at"
"""The annotation of a Job that is to stop; its value is the time of the request."""

FINAL_CODES = frozenset({3, 4, 5, 6, 7})
"""Exit codes that another attempt would only repeat."""

SERVER_FINAL_CODES = FINAL_CODES | {8}
"""Those of a server: it restarts on the same node, where a missing accelerator remains missing."""

SERVER_RESTARTS = 3
"""After this many restarts a server counts as failed, although Kubernetes keeps restarting it."""

Phase = Literal["queued", "running", "succeeded", "failed", "stopped"]
EventsOf = Callable[[Document], Sequence[Document]]
"""Returns the events of an object (and of a pod's volume claims), oldest first."""


@dataclass(frozen=True, slots=True)
class State:
    """The state of a Job or a Deployment.

    Attributes:
        phase: The phase.
        why: The reason for it, for people; empty where there is nothing to add.
        event: The event or condition of Kubernetes or Kueue behind it.
        error: The error message of a failure.
        hint: How to fix it.
        exit_code: The exit code of the last terminated container.
        started_at: When the newest attempt's process started.
        finished_at: When it terminated.
        attempts: The number of attempts.
        pods: The newest attempt's pods.
    """

    phase: Phase
    why: str = ""
    event: str = ""
    error: str = ""
    hint: str = ""
    exit_code: int | None = None
    started_at: str = ""
    finished_at: str = ""
    attempts: int = 0
    pods: tuple[str, ...] = field(default=())


def job_state(
    job: Document,
    pods: Sequence[Document],
    *,
    workloads: Sequence[Document],
    events_of: EventsOf,
    node_of: Callable[[Document], Document | None],
) -> State:
    """Return the state of a Job.

    Args:
        job: The Job.
        pods: Its pods.
        workloads: Kueue's Workloads of the namespace.
        events_of: Called only where something waits.
        node_of: Returns a pod's node; None where unknown.
    """
    status = job.get("status") or {}
    workload = workload_of(job["metadata"]["uid"], workloads)
    newest = newest_attempt(pods)
    common: dict[str, Any] = {
        "attempts": _attempts(job, pods, workload),
        "pods": tuple(pod["metadata"]["name"] for pod in newest),
        "started_at": next((time for pod in newest if (time := p.started_at(pod))), ""),
    }
    conditions = {one["type"]: one for one in status.get("conditions") or [] if one["status"] == "True"}
    if "Complete" in conditions:
        return State("succeeded", exit_code=0, finished_at=str(status.get("completionTime") or ""), **common)
    if failed := conditions.get("Failed"):
        return _failed(failed, newest, common)
    active = [pod for pod in newest if not p.is_finished(pod)]
    if job["metadata"].get("deletionTimestamp"):
        return State("running", "being deleted", **common)
    stopped_at = (job["metadata"].get("annotations") or {}).get(STOPPED, "")
    if stopped_at:
        if active or status.get("active"):
            return State("running", "saving and stopping", **common)
        hint = "Launch it again with the same values to resume from its newest checkpoint."
        return State("stopped", "stopped on request", hint=hint, finished_at=stopped_at, **common)
    if active:
        return _with_pods(active, common, events_of, node_of)
    return _without_pods(job, newest, workload, workloads, common, events_of)


def deployment_state(
    deployment: Document, pods: Sequence[Document], *, workloads: Sequence[Document], events_of: EventsOf
) -> State:
    """Return the state of a server's Deployment.

    Args:
        deployment: The Deployment.
        pods: Its pods.
        workloads: Kueue's Workloads of the namespace.
        events_of: Called only where something waits.
    """
    status = deployment.get("status") or {}
    newest = sorted(pods, key=p.created)[-1:]
    restarts = max((_restarts(pod) for pod in newest), default=0)
    common: dict[str, Any] = {
        "attempts": len(newest) + restarts,
        "pods": tuple(pod["metadata"]["name"] for pod in pods),
        "started_at": p.started_at(newest[0]) if newest else "",
    }
    if deployment["spec"].get("replicas") == 0:
        if any(not p.is_finished(pod) for pod in pods):
            return State("running", "finishing open requests and stopping", **common)
        return State("stopped", "stopped on request", hint="Serve it again with the same values.", **common)
    if status.get("availableReplicas"):
        return State("running", **common)
    if not newest:
        refused = [one for one in status.get("conditions") or [] if one["type"] == "ReplicaFailure"]
        return _refused(str(refused[0].get("message") or "") if refused else "", common)
    pod = newest[0]
    if p.has_started(pod):  # earlier terminations no longer matter
        return State("running", "not responding at the moment", **common)
    end = p.termination_of(pod)
    if end and (end.exit_code in SERVER_FINAL_CODES or restarts >= SERVER_RESTARTS):
        common |= {"exit_code": end.exit_code, "finished_at": end.finished_at}
        times = f" after {restarts} restarts" if restarts > 1 else ""
        why = f"exited with code {end.exit_code}{times}"
        return State("failed", why, error=end.error, hint=end.hint, **common)
    if waits := p.waiting_for(pod, events_of(pod)):
        workload = workload_of(pod["metadata"]["uid"], workloads)
        waits = (waiting_in_queue(workload, workloads) if workload else None) or waits
        why = f"{waits.why}: {end.error}" if end and end.error and waits.restarting else waits.why
        return State("queued", why, waits.event, **common)
    restarted = f", restarted after exit code {end.exit_code}: {end.error}" if end else ""
    return State("running", f"loading the model{restarted}", **common)


def newest_attempt(pods: Sequence[Document]) -> list[Document]:
    """Return the newest pod of each node, in the order of node indices; a Job on a single node has one."""
    newest: dict[int, Document] = {}
    for pod in sorted(pods, key=p.created):
        newest[node_index(pod) or 0] = pod
    return [newest[index] for index in sorted(newest)]


def node_index(pod: Document) -> int | None:
    """Return the index of a pod's node within its run; None where the run has a single node."""
    index = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index")
    return None if index is None else int(index)


def _with_pods(
    active: Sequence[Document],
    common: dict[str, Any],
    events_of: EventsOf,
    node_of: Callable[[Document], Document | None],
) -> State:
    for pod in active:
        if waits := p.waiting_for(pod, events_of(pod)):
            index = node_index(pod)
            where = f"node {index}: " if len(active) > 1 else ""
            return State("queued", f"{where}{waits.why}", waits.event, **common)
    for pod in active:
        if lost := p.lost_node(pod, node_of(pod)):
            return State("running", lost, **common)
        if pod["metadata"].get("deletionTimestamp"):
            return State(
                "running", f"saving before termination: {p.disruption(pod) or 'the pod is being deleted'}", **common
            )
    attempts = common["attempts"]
    return State("running", f"attempt {attempts}" if attempts > 1 else "", **common)


def _without_pods(
    job: Document,
    newest: Sequence[Document],
    workload: Document | None,
    workloads: Sequence[Document],
    common: dict[str, Any],
    events_of: EventsOf,
) -> State:
    ends = [end for pod in newest if (end := p.termination_of(pod)) and end.exit_code]
    if job["spec"].get("suspend"):
        if workload is not None and (waits := waiting_in_queue(workload, workloads)):
            return State("queued", waits.why, waits.event, **common)
        if queue := (job["metadata"].get("labels") or {}).get(QUEUE_LABEL):
            return State("queued", f"waiting for Kueue, in queue '{queue}'", **common)
        return State("queued", "the Job is suspended (spec.suspend)", **common)
    refused = [one for one in events_of(job) if one.get("reason") == "FailedCreate"]
    if refused and not newest:
        return _refused(str(refused[-1].get("message") or ""), common)
    if ends:
        disruption = next((why for pod in newest if (why := p.disruption(pod))), "") or eviction(workload)
        why = disruption or f"exited with code {ends[0].exit_code}: {ends[0].error}"
        return State("queued", f"{why}; retrying", exit_code=ends[0].exit_code, **common)
    return State("queued", "the pod is being created", **common)


def _refused(message: str, common: dict[str, Any]) -> State:
    event = f"FailedCreate: {message}" if message else ""
    if quota := re.search(r"exceeded quota: ([^,]+), requested: (\S+?), used", message):
        why = f"the namespace's quota '{quota[1]}' is exhausted (requested: {quota[2]})"
        return State("queued", why, event, **common)
    if "violates PodSecurity" in message:
        return State("queued", "the namespace's Pod Security level rejects the pods", event, **common)
    if missing := re.search(r'serviceaccount "([^"]+)" not found', message):
        return State("queued", f"the ServiceAccount '{missing[1]}' does not exist", event, **common)
    if message:
        return State("queued", f"the pod can't be created: {message[:160]}", event, **common)
    return State("queued", "the pod is being created", **common)


def _failed(condition: dict[str, Any], newest: Sequence[Document], common: dict[str, Any]) -> State:
    ends = [end for pod in newest if (end := p.termination_of(pod)) and end.exit_code]
    # A node that exits with 8 or 143 usually does so because another one failed first.
    ends.sort(key=lambda end: (end.exit_code not in FINAL_CODES, end.exit_code in (8, p.TERMINATED)))
    message = str(condition.get("message") or "")
    finished = str(condition.get("lastTransitionTime") or "")
    if not ends:
        found = re.search(r"exit code (\d+)", message)
        code = int(found[1]) if found else None
        return State(
            "failed", "the pods no longer exist", error=message, exit_code=code, finished_at=finished, **common
        )
    end = ends[0]
    error = (
        end.error if end.container not in _INIT_CONTAINERS else f"Init container '{end.container}' failed: {end.error}"
    )
    why = f"exited with code {end.exit_code}"
    if condition.get("reason") == "BackoffLimitExceeded":
        why += f" in all {common['attempts']} attempts" if common["attempts"] > 1 else ""
    common |= {"exit_code": end.exit_code, "finished_at": end.finished_at or finished}
    return State("failed", why, f"{condition.get('reason')}: {message}", error, end.hint, **common)


_INIT_CONTAINERS = frozenset({"data-script"})


def _attempts(job: Document, pods: Sequence[Document], workload: Document | None) -> int:
    status, nodes = job.get("status") or {}, job["spec"].get("completions") or 1
    counted = sum(int(status.get(which) or 0) for which in ("active", "succeeded", "failed"))
    return -(-max(len(pods), counted) // nodes) + evictions(workload)


def _restarts(pod: Document) -> int:
    return sum(int(one.get("restartCount") or 0) for one in pod.get("status", {}).get("containerStatuses") or [])
