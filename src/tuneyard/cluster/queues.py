"""Why Kueue keeps a workload waiting, and behind whom. Pure.

Kueue's visibility API tells positions exactly, and few clusters let users ask it. What is told here is counted from the
Workloads of the LocalQueue in the namespace, in Kueue's own order: priority, then age. Other namespaces'
may come between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tuneyard.cluster.pods import Waiting
from tuneyard.cluster.reader import Document

_EVICTIONS = {
    "Preempted": "preempted by one of higher priority",
    "PodsReadyTimeout": "not ready in time, and taken back",
    "AdmissionCheck": "turned down by an admission check",
    "ClusterQueueStopped": "taken back, since its ClusterQueue was stopped",
    "LocalQueueStopped": "taken back, since its LocalQueue was stopped",
    "NodeFailures": "taken off a node that failed",
}


def workload_of(uid: str, workloads: Iterable[Document]) -> Document | None:
    """Find the Workload that Kueue made for an object."""
    for workload in workloads:
        if any(owner.get("uid") == uid for owner in workload["metadata"].get("ownerReferences") or []):
            return workload
    return None


def is_admitted(workload: Document) -> bool:
    """Tell whether Kueue lets it run."""
    return _condition(workload, "Admitted").get("status") == "True"


def is_active(workload: Document) -> bool:
    """Tell whether it may be admitted at all; one that was stopped may not."""
    return workload["spec"].get("active") is not False


def evictions(workload: Document | None) -> int:
    """Count how often a workload was taken back after it had been admitted."""
    told: list[dict[str, Any]] = ((workload or {}).get("status") or {}).get("schedulingStats", {}).get(
        "evictions"
    ) or []
    return sum(int(one.get("count") or 0) for one in told)


def eviction(workload: Document | None) -> str:
    """Say how a workload that waits again was taken back; empty where it was not."""
    evicted = _condition(workload or {}, "Evicted")
    if evicted.get("status") != "True":
        return ""
    return _EVICTIONS.get(evicted.get("reason", ""), str(evicted.get("message") or "evicted").rstrip("."))


def position(workload: Document, workloads: Iterable[Document]) -> tuple[int, int]:
    """Count the place of a workload in its LocalQueue.

    Returns:
        Its place from 1 on, and how many wait.
    """
    queue = workload["spec"].get("queueName")
    waiting = [one for one in workloads if _waits(one) and one["spec"].get("queueName") == queue]
    names = [one["metadata"]["name"] for one in sorted(waiting, key=_turn)]
    name = workload["metadata"]["name"]
    return (names.index(name) + 1 if name in names else len(names) + 1), max(len(names), 1)


def waiting_in_queue(workload: Document, workloads: Iterable[Document]) -> Waiting | None:
    """Say what a workload waits for; None where it is admitted.

    Args:
        workload: The one in question.
        workloads: Every Workload of its namespace.
    """
    if is_admitted(workload):
        return None
    queue = workload["spec"].get("queueName") or "?"
    if not is_active(workload):
        return Waiting(f"it was taken out of the queue {queue}")
    told = _condition(workload, "QuotaReserved")
    message = str(told.get("message") or "").strip()
    event = f"{told.get('reason')}: {message}" if message else ""
    if missing := re.search(r"(LocalQueue|ClusterQueue) (\S+) (doesn't exist|is inactive|is stopped)", message):
        what = {"doesn't exist": "is missing"}.get(missing[3], missing[3])
        return Waiting(f"the {missing[1]} {missing[2]} {what}", event)
    place, many = position(workload, workloads)
    again = eviction(workload)
    why = f"queued in {queue}, position {place} of {many}"
    if again:
        why = f"it was {again}; {why}"
    if told.get("status") == "True":
        return Waiting(f"{why}: its quota is reserved, and admission checks are awaited", event)
    if more := re.search(
        r"insufficient quota for (\S+) in flavor .*request \((\S+)\) > maximum capacity \((\S+)\)", message
    ):
        return Waiting(f"the queue {queue} never has {more[2]} {more[1]}: its quota is {more[3]}", event)
    if short := re.findall(r"insufficient (?:unused )?quota for (\S+) in flavor (\S+?),", message):
        why += f": no quota of {' and '.join(dict.fromkeys(resource for resource, _ in short))} is free"
    return Waiting(why, event)


def _waits(workload: Document) -> bool:
    if not is_active(workload) or _condition(workload, "Finished").get("status") == "True":
        return False
    return _condition(workload, "QuotaReserved").get("status") != "True"


def _turn(workload: Document) -> tuple[int, str, str]:
    metadata = workload["metadata"]
    return -int(workload["spec"].get("priority") or 0), str(metadata.get("creationTimestamp") or ""), metadata["name"]


def _condition(workload: Document, kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = (workload.get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == kind), {})
