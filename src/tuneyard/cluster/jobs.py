"""A Job or a Deployment with its pods, read as one state in words. Pure but for events, which are asked for late."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tuneyard.cluster import pods as p
from tuneyard.cluster.queues import eviction, evictions, waiting_in_queue, workload_of
from tuneyard.cluster.reader import Document

STOPPED = "tuneyard.io/stopped-at"
"""The annotation of a Job that was told to stop; its value says when."""

QUEUE = "kueue.x-k8s.io/queue-name"
FINAL_CODES = frozenset({3, 4, 5, 6, 7})
"""Ends that another attempt would only repeat."""

SERVER_FINAL_CODES = FINAL_CODES | {8}
"""Those of a server: it is started again on the same node, where an accelerator that is missing stays so."""

SERVER_RESTARTS = 3
"""After so many ends of whatever kind a server counts as failed, although Kubernetes goes on starting it."""

Phase = Literal["queued", "running", "succeeded", "failed", "stopped"]
EventsOf = Callable[[Document], Sequence[Document]]
"""Gives the events about an object (a pod's with those of its volume claims), oldest first."""


@dataclass(frozen=True, slots=True)
class State:
    """What a Job or a Deployment is at.

    Attributes:
        phase: One word.
        why: That in words; empty where there is nothing to add.
        event: What Kubernetes or Kueue says behind it.
        error: The sentence it failed with.
        hint: What to do about it.
        exit_code: What the newest ended container ended with.
        started_at: When the newest attempt's process started.
        finished_at: When it ended.
        attempts: How many attempts there were.
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
    """Read a Job.

    Args:
        job: The Job.
        pods: Its pods.
        workloads: Kueue's Workloads of the namespace.
        events_of: Asked where something waits.
        node_of: Gives a pod's node; None where that can't be known.
    """
    told = job.get("status") or {}
    workload = workload_of(job["metadata"]["uid"], workloads)
    newest = newest_attempt(pods)
    common: dict[str, Any] = {
        "attempts": _attempts(job, pods, workload),
        "pods": tuple(pod["metadata"]["name"] for pod in newest),
        "started_at": next((began for pod in newest if (began := p.started_at(pod))), ""),
    }
    conditions = {one["type"]: one for one in told.get("conditions") or [] if one["status"] == "True"}
    if "Complete" in conditions:
        return State("succeeded", exit_code=0, finished_at=str(told.get("completionTime") or ""), **common)
    if failed := conditions.get("Failed"):
        return _failed(failed, newest, common)
    working = [pod for pod in newest if not p.is_over(pod)]
    if job["metadata"].get("deletionTimestamp"):
        return State("running", "it is being deleted", **common)
    stopped_at = (job["metadata"].get("annotations") or {}).get(STOPPED, "")
    if stopped_at:
        if working or told.get("active"):
            return State("running", "it saves and stops", **common)
        hint = "Launch it again with the same values; it goes on from its newest checkpoint."
        return State("stopped", "it was told to stop", hint=hint, finished_at=stopped_at, **common)
    if working:
        return _working(working, common, events_of, node_of)
    return _without_pods(job, newest, workload, workloads, common, events_of)


def deployment_state(
    deployment: Document, pods: Sequence[Document], *, workloads: Sequence[Document], events_of: EventsOf
) -> State:
    """Read a Deployment that serves.

    Args:
        deployment: The Deployment.
        pods: Its pods.
        workloads: Kueue's Workloads of the namespace.
        events_of: Asked where something waits.
    """
    told = deployment.get("status") or {}
    newest = sorted(pods, key=p.created)[-1:]
    restarts = max((_restarts(pod) for pod in newest), default=0)
    common: dict[str, Any] = {
        "attempts": len(newest) + restarts,
        "pods": tuple(pod["metadata"]["name"] for pod in pods),
        "started_at": p.started_at(newest[0]) if newest else "",
    }
    if deployment["spec"].get("replicas") == 0:
        if any(not p.is_over(pod) for pod in pods):
            return State("running", "it ends its answers and stops", **common)
        return State("stopped", "it was told to stop", hint="Serve it again with the same values.", **common)
    if told.get("availableReplicas"):
        return State("running", **common)
    if not newest:
        refused = [one for one in told.get("conditions") or [] if one["type"] == "ReplicaFailure"]
        return _refused(str(refused[0].get("message") or "") if refused else "", common)
    pod = newest[0]
    if p.has_come_up(pod):  # how it ended before says nothing any more
        return State("running", "it does not answer at the moment", **common)
    end = p.end_of(pod)
    if end and (end.exit_code in SERVER_FINAL_CODES or restarts >= SERVER_RESTARTS):
        common |= {"exit_code": end.exit_code, "finished_at": end.finished_at}
        times = f", for the {restarts}. time" if restarts > 1 else ""
        why = f"it ended with exit code {end.exit_code}{times}"
        return State("failed", why, error=end.error, hint=end.hint, **common)
    if waits := p.waiting_for(pod, events_of(pod)):
        own = workload_of(pod["metadata"]["uid"], workloads)
        waits = (waiting_in_queue(own, workloads) if own else None) or waits
        why = f"{waits.why}: {end.error}" if end and end.error and "exit code" in waits.why else waits.why
        return State("queued", why, waits.event, **common)
    again = f", again after exit code {end.exit_code}: {end.error}" if end else ""
    return State("running", f"loading the model{again}", **common)


def newest_attempt(pods: Sequence[Document]) -> list[Document]:
    """Give the newest pod of each node, in the order of their indices; a Job without nodes has one."""
    newest: dict[int, Document] = {}
    for pod in sorted(pods, key=p.created):
        newest[node_index(pod) or 0] = pod
    return [newest[index] for index in sorted(newest)]


def node_index(pod: Document) -> int | None:
    """Tell which node of its run a pod is; None where the run has one only."""
    told = (pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index")
    return None if told is None else int(told)


def _working(
    working: Sequence[Document],
    common: dict[str, Any],
    events_of: EventsOf,
    node_of: Callable[[Document], Document | None],
) -> State:
    for pod in working:
        if waits := p.waiting_for(pod, events_of(pod)):
            index = node_index(pod)
            where = f"node {index}: " if len(working) > 1 else ""
            return State("queued", f"{where}{waits.why}", waits.event, **common)
    for pod in working:
        if lost := p.lost_node(pod, node_of(pod)):
            return State("running", lost, **common)
        if pod["metadata"].get("deletionTimestamp"):
            return State("running", f"it saves and ends: {p.disruption(pod) or 'its pod is being deleted'}", **common)
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
    ends = [end for pod in newest if (end := p.end_of(pod)) and end.exit_code]
    if job["spec"].get("suspend"):
        if workload is not None and (waits := waiting_in_queue(workload, workloads)):
            return State("queued", waits.why, waits.event, **common)
        if queue := (job["metadata"].get("labels") or {}).get(QUEUE):
            return State("queued", f"Kueue has not looked at it yet, in the queue {queue}", **common)
        return State("queued", "the Job is suspended (spec.suspend)", **common)
    refused = [one for one in events_of(job) if one.get("reason") == "FailedCreate"]
    if refused and not newest:
        return _refused(str(refused[-1].get("message") or ""), common)
    if ends:
        taken = next((why for pod in newest if (why := p.disruption(pod))), "") or eviction(workload)
        why = f"it was {taken}" if taken else f"it ended with exit code {ends[0].exit_code}: {ends[0].error}"
        return State("queued", f"{why}; another attempt follows", exit_code=ends[0].exit_code, **common)
    return State("queued", "its pod is being made", **common)


def _refused(message: str, common: dict[str, Any]) -> State:
    event = f"FailedCreate: {message}" if message else ""
    if quota := re.search(r"exceeded quota: ([^,]+), requested: (\S+?), used", message):
        return State(
            "queued", f"the namespace's quota {quota[1]} is used up ({quota[2]} more asked for)", event, **common
        )
    if "violates PodSecurity" in message:
        return State("queued", "the namespace's Pod Security refuses its pods", event, **common)
    if missing := re.search(r'serviceaccount "([^"]+)" not found', message):
        return State("queued", f"the ServiceAccount {missing[1]} is missing", event, **common)
    if message:
        return State("queued", f"its pod can't be made: {message[:160]}", event, **common)
    return State("queued", "its pod is being made", **common)


def _failed(condition: dict[str, Any], newest: Sequence[Document], common: dict[str, Any]) -> State:
    ends = [end for pod in newest if (end := p.end_of(pod)) and end.exit_code]
    # A node that ends with 8 or 143 mostly does so because another one ended first.
    ends.sort(key=lambda end: (end.exit_code not in FINAL_CODES, end.exit_code in (8, p.TERMINATED)))
    message = str(condition.get("message") or "")
    finished = str(condition.get("lastTransitionTime") or "")
    if not ends:
        told = re.search(r"exit code (\d+)", message)
        code = int(told[1]) if told else None
        return State("failed", "its pods are gone", error=message, exit_code=code, finished_at=finished, **common)
    end = ends[0]
    error = end.error if end.container not in _INIT else f"its init container {end.container} failed: {end.error}"
    why = f"it ended with exit code {end.exit_code}"
    if condition.get("reason") == "BackoffLimitExceeded":
        why += f" in each of {common['attempts']} attempts" if common["attempts"] > 1 else ""
    common |= {"exit_code": end.exit_code, "finished_at": end.finished_at or finished}
    return State("failed", why, f"{condition.get('reason')}: {message}", error, end.hint, **common)


_INIT = frozenset({"data-script"})


def _attempts(job: Document, pods: Sequence[Document], workload: Document | None) -> int:
    told, nodes = job.get("status") or {}, job["spec"].get("completions") or 1
    counted = sum(int(told.get(which) or 0) for which in ("active", "succeeded", "failed"))
    return -(-max(len(pods), counted) // nodes) + evictions(workload)


def _restarts(pod: Document) -> int:
    return sum(int(one.get("restartCount") or 0) for one in pod.get("status", {}).get("containerStatuses") or [])
