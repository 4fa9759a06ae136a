"""Explain why a pod is not running yet, and how it terminated. Pure: documents in, text out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.cluster.reader import Document

TERMINATED, KILLED = 143, 137
_IMAGE_ERRORS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable")


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a pod waits for.

    Attributes:
        why: The reason, for people.
        event: The event or condition behind it, as `Reason: message`; may be empty.
        restarting: Whether a container exited and will be restarted.
    """

    why: str
    event: str = ""
    restarting: bool = False


@dataclass(frozen=True, slots=True)
class Termination:
    """How a container terminated.

    Attributes:
        container: Its name.
        exit_code: Its exit code.
        error: Its error message.
        hint: How to fix it.
        started_at: When it started, as a Kubernetes timestamp.
        finished_at: When it terminated.
    """

    container: str
    exit_code: int
    error: str = ""
    hint: str = ""
    started_at: str = ""
    finished_at: str = ""


def created(pod: Document) -> tuple[str, str]:
    """Return the key that sorts pods by age, oldest first."""
    return str(pod["metadata"].get("creationTimestamp", "")), pod["metadata"]["name"]


def is_finished(pod: Document) -> bool:
    """Return whether all of its containers have terminated for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def is_running(pod: Document) -> bool:
    """Return whether its main container is running."""
    return any("running" in (status.get("state") or {}) for status in _statuses(pod, "containerStatuses"))


def has_started(pod: Document) -> bool:
    """Return whether its main container has passed the startup probe since its last start."""
    return any(status.get("started") for status in _statuses(pod, "containerStatuses"))


def started_at(pod: Document) -> str:
    """Return when its main container last started; empty where it has not."""
    for status in _statuses(pod, "containerStatuses"):
        state = status.get("state") or {}
        if time := (state.get("running") or state.get("terminated") or {}).get("startedAt"):
            return str(time)
    return ""


def container_names(pod: Document) -> list[str]:
    """Return the names of its containers, in the order in which they run."""
    spec = pod["spec"]
    return [one["name"] for one in [*(spec.get("initContainers") or []), *spec["containers"]]]


def termination_of(pod: Document) -> Termination | None:
    """Return how a pod terminated: by its first failed container, else by its main one; None while it is running.

    For a restarted container, it is the last termination.
    """
    ends: list[Termination] = []
    for status in [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]:
        state = (status.get("state") or {}).get("terminated") or (status.get("lastState") or {}).get("terminated")
        if state:
            ends.append(_termination(status["name"], state))
    failed = [end for end in ends if end.exit_code != 0]
    if failed:
        return failed[0]
    return ends[-1] if ends and is_finished(pod) else None


def waiting_for(pod: Document, events: Sequence[Document] = ()) -> Waiting | None:
    """Return what keeps a pod from running; None where nothing does.

    Args:
        pod: The pod.
        events: The events of the pod and of its volume claims, oldest first.
    """
    if is_finished(pod) or is_running(pod):
        return None
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _unscheduled(condition, events)
    for status in [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]:
        state = status.get("state") or {}
        if reason := (state.get("waiting") or {}).get("reason"):
            return _waiting(pod, status, reason, state["waiting"].get("message") or "", events)
        if "running" in state:
            return Waiting(f"init container '{status['name']}' is running")
    return Waiting("the pod is starting", _newest(events))


def is_stuck(pod: Document) -> bool:
    """Return whether a container waits for an image, Secret or ConfigMap that does not exist."""
    every = [*_statuses(pod, "initContainerStatuses"), *_statuses(pod, "containerStatuses")]
    reasons = [((status.get("state") or {}).get("waiting") or {}).get("reason") for status in every]
    return any(reason in (*_IMAGE_ERRORS, "CreateContainerConfigError") for reason in reasons)


def lost_node(pod: Document, node: Document | None) -> str:
    """Describe the loss of a pod's node; empty where it is not lost."""
    if pod.get("status", {}).get("reason") == "NodeLost":
        return f"node '{pod['spec'].get('nodeName')}' is lost"
    for condition in ((node or {}).get("status") or {}).get("conditions") or []:
        if condition["type"] == "Ready" and condition["status"] != "True":
            since = str(condition.get("lastTransitionTime") or "").replace("T", " ").rstrip("Z")
            return f"node '{pod['spec'].get('nodeName')}' has not responded since {since} UTC"
    return ""


def disruption(pod: Document) -> str:
    """Describe the disruption of a pod in a few words; empty where there was none."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _DISRUPTIONS.get(condition.get("reason") or "", condition.get("message") or "disrupted")
    return ""


_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted through the API, such as by a node drain",
    "PreemptionByScheduler": "preempted by a pod with a higher priority",
    "DeletionByTaintManager": "evicted from a lost or tainted node",
    "DeletionByPodGC": "deleted with its node",
    "TerminationByKubelet": "evicted by its node for lack of memory or disk",
    "WorkloadEvictedDueToPreempted": "preempted",
}


def _statuses(pod: Document, which: str) -> list[dict[str, Any]]:
    return pod.get("status", {}).get(which) or []


def _termination(container: str, state: dict[str, Any]) -> Termination:
    code = int(state.get("exitCode") or 0)
    error, hint = ("", "") if code == 0 else parse_termination_message(state.get("message") or "")
    if state.get("reason") == "OOMKilled":
        error = "The container exceeded its memory limit and was killed."
        hint = "Raise the limit: --set resources.limits.memory=…, or use smaller batches."
    elif code == KILLED and not error:
        error, hint = "The container was killed without an error message.", "kubectl get events"
    times = {"started_at": str(state.get("startedAt") or ""), "finished_at": str(state.get("finishedAt") or "")}
    return Termination(container, code, error or (f"exit code {code}" if code else ""), hint, **times)


def parse_termination_message(message: str) -> tuple[str, str]:
    """Parse a termination message: the document that `tuneyard.process` wrote, else the end of the log.

    Returns:
        The error and the hint.
    """
    try:
        document: Any = json.loads(message)
    except ValueError:
        document = None
    if isinstance(document, dict):
        fields = cast("dict[str, Any]", document)
        return str(fields.get("error") or ""), str(fields.get("hint") or "")
    lines = [line.strip() for line in message.replace("\r", "\n").splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if line.startswith("error:")]
    if not errors:
        return (lines[-1] if lines else ""), ""
    hints = [line.removeprefix("hint:").strip() for line in lines[errors[-1] :] if line.startswith("hint:")]
    return lines[errors[-1]].removeprefix("error:").strip(), hints[0] if hints else ""


def _unscheduled(condition: dict[str, Any], events: Sequence[Document]) -> Waiting:
    reason, message = condition.get("reason") or "", (condition.get("message") or "").strip()
    event = f"{reason}: {message}"
    if reason == "SchedulingGated":
        return Waiting("waiting for admission by the queue", event)
    if re.search(r"persistentvolumeclaim|storageclass|unbound|volume node affinity", message, re.IGNORECASE):
        failed = [one for one in events if one.get("reason") == "ProvisioningFailed"]
        reported = str(failed[-1].get("message") or "") if failed else message
        if missing := re.search(r'storageclass\S* "([^"]+)" not found', reported):
            return Waiting(f"the volume is not bound: storage class '{missing[1]}' does not exist", _line(failed[-1]))
        return Waiting(f"the volume is not bound: {_short(reported)}", _line(failed[-1]) if failed else event)
    if lacking := re.findall(r"Insufficient ([^\s,.]+(?:\.[^\s,.]+)*/?[^\s,.]*)", message):
        return Waiting(f"no node has enough free {' and '.join(dict.fromkeys(lacking))}", event)
    reason = re.sub(r"^0/\d+ nodes are available: | ?no new claims to deallocate.*| ?preemption: .*", "", message)
    return Waiting(f"no node is suitable: {_short(reason).rstrip('., ')}", event)


def _waiting(
    pod: Document, status: dict[str, Any], reason: str, message: str, events: Sequence[Document]
) -> Waiting | None:
    event = f"{reason}: {message}" if message else _newest(events) or reason
    if reason in _IMAGE_ERRORS:
        failed = [one for one in events if one.get("reason") == "Failed" and "pull" in str(one.get("message"))]
        cause = message if "Back-off" not in message or not failed else str(failed[-1].get("message"))
        event = f"{reason}: {cause or 'no reason given'}"
        return Waiting(f"the image '{_image(pod, status['name'])}' can't be pulled", event)
    if reason in ("CreateContainerConfigError", "CreateContainerError", "RunContainerError"):
        return Waiting(_missing(message) or f"the container can't be started: {_short(message)}", event)
    if reason == "CrashLoopBackOff":
        end = (status.get("lastState") or {}).get("terminated") or {}
        return Waiting(f"restarting after exit code {end.get('exitCode')}", event, restarting=True)
    for one in reversed(events):
        if one.get("reason") in ("FailedMount", "FailedAttachVolume"):
            cause = str(one.get("message") or "")
            return Waiting(_missing(cause) or f"the volume can't be mounted: {_short(cause)}", _line(one))
        if one.get("reason") == "Pulling":
            return Waiting(f"pulling the image '{_image(pod, status['name'])}'", _line(one))
    return Waiting("the pod is starting", _newest(events))


def _missing(message: str) -> str:
    """Name the Secret, ConfigMap or key that does not exist; empty where the message names none."""
    if found := re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (?:\S+/)?([^\s:]+)", message):
        return f"the {found[2]} '{found[3]}' has no key '{found[1]}'"
    if found := re.search(r"references non-existent (secret|config) key: (\S+)", message):
        return f"a {'Secret' if found[1] == 'secret' else 'ConfigMap'} has no key '{found[2]}'"
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', message):
        return f"the {'Secret' if found[1] == 'secret' else 'ConfigMap'} '{found[2]}' does not exist"
    return ""


def _image(pod: Document, container: str) -> str:
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or []), *spec["containers"]]
    return next((one["image"] for one in containers if one["name"] == container), "?")


def _newest(events: Sequence[Document]) -> str:
    warnings = [one for one in events if one.get("type") == "Warning"]
    return _line(warnings[-1]) if warnings else ""


def _line(event: Document) -> str:
    return f"{event.get('reason')}: {str(event.get('message') or '').strip()}"


def _short(message: str) -> str:
    return message if len(message) <= 160 else f"{message[:159]}…"
