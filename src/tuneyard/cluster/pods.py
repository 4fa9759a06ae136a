"""Why a pod does not run yet, and how it ended, in words. Pure: documents in, sentences out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.cluster.reader import Document

TERMINATED, KILLED = 143, 137
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a pod waits for.

    Attributes:
        why: In words.
        event: What Kubernetes says, as `Reason: message`; may be empty.
    """

    why: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """How a container ended.

    Attributes:
        container: Its name.
        exit_code: Its exit code.
        error: The sentence it ended with.
        hint: What to do about it.
        started_at: When it had started, as Kubernetes writes times.
        finished_at: When it ended.
    """

    container: str
    exit_code: int
    error: str = ""
    hint: str = ""
    started_at: str = ""
    finished_at: str = ""


def created(pod: Document) -> tuple[str, str]:
    """Give what pods are sorted by, oldest first."""
    return str(pod["metadata"].get("creationTimestamp", "")), pod["metadata"]["name"]


def is_over(pod: Document) -> bool:
    """Tell whether none of its containers runs any more."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_running(pod: Document) -> bool:
    """Tell whether its main container runs."""
    return any("running" in (status.get("state") or {}) for status in _statuses(pod, "containerStatuses"))


def has_come_up(pod: Document) -> bool:
    """Tell whether its main container has passed its startup probe since it was last started."""
    return any(status.get("started") for status in _statuses(pod, "containerStatuses"))


def started_at(pod: Document) -> str:
    """Tell when its newest main container started; empty where it has not."""
    for status in _statuses(pod, "containerStatuses"):
        state = status.get("state") or {}
        if began := (state.get("running") or state.get("terminated") or {}).get("startedAt"):
            return str(began)
    return ""


def containers(pod: Document) -> list[str]:
    """Name its containers in the order in which they run."""
    spec = pod["spec"]
    return [one["name"] for one in [*(spec.get("initContainers") or []), *spec["containers"]]]


def end_of(pod: Document) -> End | None:
    """Tell how its containers ended: the first that failed, else the main one; None while it works.

    A container that has been started again since is told of too: how it ended the last time.
    """
    ends: list[End] = []
    for status in [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]:
        told = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
        if told:
            ends.append(_end(status["name"], told))
    failed = [end for end in ends if end.exit_code != 0]
    if failed:
        return failed[0]
    return ends[-1] if ends and is_over(pod) else None


def waiting_for(pod: Document, events: Sequence[Document] = ()) -> Waiting | None:
    """Tell what keeps a pod from running; None where nothing does.

    Args:
        pod: The pod.
        events: The events about it and its volume claims, oldest first.
    """
    if is_over(pod) or is_running(pod):
        return None
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(condition, events)
    for status in [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]:
        state = status.get("state") or {}
        if reason := (state.get("waiting") or {}).get("reason"):
            return _held_back(pod, status, reason, state["waiting"].get("message") or "", events)
        if "running" in state:
            return Waiting(f"its init container {status['name']} works")
    return Waiting("its pod is being started", _newest(events))


def is_stuck(pod: Document) -> bool:
    """Tell whether a container waits for what nobody brings: its image, or a Secret or ConfigMap that is missing."""
    every = [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]
    reasons = [((status.get("state") or {}).get("waiting") or {}).get("reason") for status in every]
    return any(reason in (*_NO_IMAGE, "CreateContainerConfigError") for reason in reasons)


def lost_node(pod: Document, node: Document | None) -> str:
    """Say that a pod's node is lost; empty where it is not."""
    if pod.get("status", {}).get("reason") == "NodeLost":
        return f"its node {pod['spec'].get('nodeName')} is lost"
    for condition in ((node or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = str(condition.get("lastTransitionTime") or "").replace("T", " ").rstrip("Z")
            return f"its node {pod['spec'].get('nodeName')} has not answered since {since} UTC"
    return ""


def disruption(pod: Document) -> str:
    """Say in a word or two why a pod was taken away; empty where it was not."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _DISRUPTIONS.get(condition.get("reason") or "", condition.get("message") or "disrupted")
    return ""


_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted, as for a drained node",
    "PreemptionByScheduler": "preempted by a pod of higher priority",
    "DeletionByTaintManager": "taken off a node that is lost or tainted",
    "DeletionByPodGC": "removed with its node",
    "TerminationByKubelet": "evicted by its node, which ran short of memory or disk",
    "WorkloadEvictedDueToPreempted": "preempted",
}


def _statuses(pod: Document, which: str) -> list[dict[str, Any]]:
    return pod.get("status", {}).get(which) or []


def _end(container: str, told: dict[str, Any]) -> End:
    code = int(told.get("exitCode") or 0)
    error, hint = ("", "") if code == 0 else last_words(told.get("message") or "")
    if told.get("reason") == "OOMKilled":
        error = "The container used more memory than its limit, and was killed."
        hint = "Give it more: --set resources.limits.memory=…, or make batches smaller."
    elif code == KILLED and not error:
        error, hint = "The container was killed before it could say why.", "See the node's events: kubectl get events"
    times = {"started_at": str(told.get("startedAt") or ""), "finished_at": str(told.get("finishedAt") or "")}
    return End(container, code, error or (f"exit code {code}" if code else ""), hint, **times)


def last_words(message: str) -> tuple[str, str]:
    """Read a termination message: what `tuneyard.process` wrote, else the end of the log.

    Returns:
        The sentence and the hint.
    """
    try:
        told: Any = json.loads(message)
    except ValueError:
        told = None
    if isinstance(told, dict):
        facts = cast("dict[str, Any]", told)
        return str(facts.get("error") or ""), str(facts.get("hint") or "")
    lines = [line.strip() for line in message.replace("\r", "\n").splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if line.startswith("error:")]
    if not errors:
        return (lines[-1] if lines else ""), ""
    hints = [line.removeprefix("hint:").strip() for line in lines[errors[-1] :] if line.startswith("hint:")]
    return lines[errors[-1]].removeprefix("error:").strip(), hints[0] if hints else ""


def _unscheduled(condition: dict[str, Any], events: Sequence[Document]) -> Waiting:
    reason, message = condition.get("reason") or "", (condition.get("message") or "").strip()
    event = f"{reason}: {message}"
    if reason == "SchedulingGated":
        return Waiting("it waits to be admitted by its queue", event)
    if re.search(r"persistentvolumeclaim|storageclass|unbound|volume node affinity", message, re.IGNORECASE):
        failed = [one for one in events if one.get("reason") == "ProvisioningFailed"]
        told = str(failed[-1].get("message") or "") if failed else message
        if missing := re.search(r'storageclass\S* "([^"]+)" not found', told):
            return Waiting(f"its volume is not bound: there is no storage class {missing[1]}", _line(failed[-1]))
        return Waiting(f"its volume is not bound: {_short(told)}", _line(failed[-1]) if failed else event)
    if lacking := re.findall(r"Insufficient ([^\s,.]+(?:\.[^\s,.]+)*/?[^\s,.]*)", message):
        return Waiting(f"no node has enough {' and '.join(dict.fromkeys(lacking))} free", event)
    told = re.sub(r"^0/\d+ nodes are available: | ?no new claims to deallocate.*| ?preemption: .*", "", message)
    return Waiting(f"no node can take it: {_short(told).rstrip('., ')}", event)


def _held_back(
    pod: Document, status: dict[str, Any], reason: str, message: str, events: Sequence[Document]
) -> Waiting | None:
    event = f"{reason}: {message}" if message else _newest(events) or reason
    if reason in _NO_IMAGE:
        tried = [one for one in events if one.get("reason") == "Failed" and "pull" in str(one.get("message"))]
        told = message if "Back-off" not in message or not tried else str(tried[-1].get("message"))
        event = f"{reason}: {told or 'no reason told'}"
        return Waiting(f"the image {_image(pod, status['name'])} can't be pulled", event)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Waiting(_missing(message) or f"its container can't be started: {_short(message)}", event)
    if reason == "CrashLoopBackOff":
        end = (status.get("lastState") or {}).get("terminated") or {}
        return Waiting(f"it ended with exit code {end.get('exitCode')} and will be started again", event)
    for one in reversed(events):
        if one.get("reason") in ("FailedMount", "FailedAttachVolume"):
            told = str(one.get("message") or "")
            return Waiting(_missing(told) or f"its volume can't be mounted: {_short(told)}", _line(one))
        if one.get("reason") == "Pulling":
            return Waiting(f"the image {_image(pod, status['name'])} is being pulled", _line(one))
    return Waiting("its pod is being started", _newest(events))


def _missing(message: str) -> str:
    """Name the Secret, ConfigMap or key that is not there; empty where the message names none."""
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?([^\s:]+)", message):
        return f"the {found[2]} {found[3]} has no key {found[1]}"
    if found := re.search(r"references non-existent (secret|config) key: (\S+)", message):
        return f"a {'Secret' if found[1] == 'secret' else 'ConfigMap'} has no key {found[2]}"
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        return f"the {'Secret' if found[1] == 'secret' else 'ConfigMap'} {found[2]} is missing"
    return ""


def _image(pod: Document, container: str) -> str:
    spec = pod["spec"]
    every = [*(spec.get("initContainers") or []), *spec["containers"]]
    return next((one["image"] for one in every if one["name"] == container), "?")


def _newest(events: Sequence[Document]) -> str:
    warnings = [one for one in events if one.get("type") == "Warning"]
    return _line(warnings[-1]) if warnings else ""


def _line(event: Document) -> str:
    return f"{event.get('reason')}: {str(event.get('message') or '').strip()}"


def _short(message: str) -> str:
    return message if len(message) <= 160 else f"{message[:159]}…"
