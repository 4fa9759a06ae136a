"""Explain why a Workload waits in Kueue, and at which position. Pure.

Kueue's visibility API has the exact position, but few clusters grant users access to it. The position here is counted
among the Workloads of the namespace's LocalQueue, in Kueue's order: priority, then age. Workloads of other namespaces
may come in between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tuneyard.cluster.pods import Waiting
from tuneyard.cluster.reader import Document

_EVICTIONS = {
    "Preempted": "preempted by a Workload with a higher priority",
    "PodsReadyTimeout": "evicted, since its pods were not ready in time",
    "AdmissionCheck": "rejected by an admission check",
    "ClusterQueueStopped": "evicted, since its ClusterQueue was stopped",
    "LocalQueueStopped": "evicted, since its LocalQueue was stopped",
    "NodeFailures": "evicted from a failed node",
}


def workload_of(uid: str, workloads: Iterable[Document]) -> Document | None:
    """Find the Workload that Kueue created for an object."""
    for workload in workloads:
        if any(owner.get("uid") == uid for owner in workload["metadata"].get("ownerReferences") or []):
            return workload
    return None


def is_admitted(workload: Document) -> bool:
    """Return whether Kueue has admitted a Workload."""
    return _condition(workload, "Admitted").get("status") == "True"


def is_active(workload: Document) -> bool:
    """Return whether a Workload may be admitted at all; a stopped one may not."""
    return workload["spec"].get("active") is not False


def evictions(workload: Document | None) -> int:
    """Count how often a Workload was evicted after its admission."""
    status = (workload or {}).get("status") or {}
    counts: list[dict[str, Any]] = status.get("schedulingStats", {}).get("evictions") or []
    return sum(int(one.get("count") or 0) for one in counts)


def eviction(workload: Document | None) -> str:
    """Describe the eviction of a Workload that waits again; empty where there was none."""
    evicted = _condition(workload or {}, "Evicted")
    if evicted.get("status") != "True":
        return ""
    return _EVICTIONS.get(evicted.get("reason", ""), str(evicted.get("message") or "evicted").rstrip("."))


def position(workload: Document, workloads: Iterable[Document]) -> tuple[int, int]:
    """Count the position of a Workload in its LocalQueue.

    Returns:
        Its position from 1, and the number of waiting Workloads.
    """
    queue = workload["spec"].get("queueName")
    waiting = [one for one in workloads if _is_waiting(one) and one["spec"].get("queueName") == queue]
    names = [one["metadata"]["name"] for one in sorted(waiting, key=_order)]
    name = workload["metadata"]["name"]
    return (names.index(name) + 1 if name in names else len(names) + 1), max(len(names), 1)


def waiting_in_queue(workload: Document, workloads: Iterable[Document]) -> Waiting | None:
    """Return what a Workload waits for; None where it is admitted.

    Args:
        workload: The Workload.
        workloads: All Workloads of its namespace.
    """
    if is_admitted(workload):
        return None
    queue = workload["spec"].get("queueName") or "?"
    if not is_active(workload):
        return Waiting(f"deactivated in queue '{queue}'")
    reserved = _condition(workload, "QuotaReserved")
    message = str(reserved.get("message") or "").strip()
    event = f"{reserved.get('reason')}: {message}" if message else ""
    if missing := re.search(r"(LocalQueue|ClusterQueue) (\S+) (doesn't exist|is inactive|is stopped)", message):
        state = missing[3].replace("doesn't", "does not")
        return Waiting(f"{missing[1]} '{missing[2]}' {state}", event)
    place, total = position(workload, workloads)
    why = f"queued in '{queue}', position {place} of {total}"
    if evicted := eviction(workload):
        why = f"{evicted}; {why}"
    if reserved.get("status") == "True":
        return Waiting(f"{why}: quota is reserved, waiting for admission checks", event)
    if more := re.search(
        r"insufficient quota for (\S+) in flavor .*request \((\S+)\) > maximum capacity \((\S+)\)", message
    ):
        return Waiting(f"the request of {more[2]} {more[1]} exceeds the quota of queue '{queue}': {more[3]}", event)
    if short := re.findall(r"insufficient (?:unused )?quota for (\S+) in flavor (\S+?),", message):
        why += f": insufficient free quota for {' and '.join(dict.fromkeys(resource for resource, _ in short))}"
    return Waiting(why, event)


def _is_waiting(workload: Document) -> bool:
    if not is_active(workload) or _condition(workload, "Finished").get("status") == "True":
        return False
    return _condition(workload, "QuotaReserved").get("status") != "True"


def _order(workload: Document) -> tuple[int, str, str]:
    metadata = workload["metadata"]
    return -int(workload["spec"].get("priority") or 0), str(metadata.get("creationTimestamp") or ""), metadata["name"]


def _condition(workload: Document, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = (workload.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})
