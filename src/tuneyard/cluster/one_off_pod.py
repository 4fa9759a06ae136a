"""Run one command in a pod of the namespace, for what this machine can't reach, and remove the pod.

The pod is that of a run without its accelerators, queue, node selection and volumes. It is removed however it ends.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import time
from collections.abc import Sequence
from typing import Any

from tuneyard.cluster import pods as p
from tuneyard.cluster.reader import Document
from tuneyard.cluster.tools import Tools
from tuneyard.errors import NotFoundError, TuneyardError, UnavailableError

_POLL_SECONDS = 0.5
_OWN_SECRET = re.compile(r".+-env-[0-9a-f]{10}")
_GRACE_SECONDS = 5


def one_off_spec(run: Document, container: str, command: Sequence[str], *, memory: str = "128Mi") -> Document:
    """Derive the spec of a one-off pod from that of a run: same image, Secrets, CA bundle and site settings.

    Args:
        run: The spec of the run's pod, with one container.
        container: The container's name.
        command: Its command.
        memory: Its memory request.
    """
    spec: dict[str, Any] = copy.deepcopy(run)
    (only,) = spec["containers"]
    only["name"], only["command"] = container, list(command)
    only["resources"] = {"requests": {"cpu": "100m", "memory": memory}}
    for terminal in ("tty", "stdin"):
        only.pop(terminal, None)
    only["env"] = [_optional(one) for one in only.get("env") or [] if not one["name"].startswith("TUNEYARD_NODE")]
    for mount in only.get("volumeMounts") or []:
        for key in ("subPath", "subPathExpr"):  # folders of the run, on volumes that this pod lacks
            mount.pop(key, None)
    for key in ("nodeSelector", "nodeName", "subdomain", "schedulingGates"):
        spec.pop(key, None)
    for volume in spec.get("volumes") or []:
        if volume["name"] == "work":
            volume.pop("ephemeral", None)
            volume.pop("persistentVolumeClaim", None)
            volume["emptyDir"] = {}
    return {**spec, "restartPolicy": "Never"}


def _optional(variable: Document) -> Document:
    """Make a variable optional if its value is in the run's own Secret, which exists only once the run does."""
    reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
    if reference and _OWN_SECRET.fullmatch(reference["name"]):
        return {**variable, "valueFrom": {"secretKeyRef": {**reference, "optional": True}}}
    return variable


def run_one_off_pod(
    tools: Tools, name: str, spec: Document, *, timeout_seconds: float, **metadata: Any
) -> tuple[str, p.Termination]:
    """Run a pod to completion, and remove it.

    Args:
        tools: kubectl for the namespace.
        name: The pod's name.
        spec: Its spec.
        timeout_seconds: The time limit, including the time to pull the image.
        metadata: Additional metadata, such as `annotations`.

    Returns:
        Its log, and how it terminated.

    Raises:
        NotFoundError: If its image, or a Secret or ConfigMap that it needs, does not exist.
        UnavailableError: If it does not finish in time.
    """
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "tuneyard"}, **metadata},
        "spec": {
            **spec,
            "activeDeadlineSeconds": int(timeout_seconds),
            "terminationGracePeriodSeconds": _GRACE_SECONDS,
        },
    }
    try:
        tools.kubectl("create", "-f", "-", stdin=json.dumps(pod))
        end = _wait(tools, name, timeout_seconds)
        return tools.kubectl("logs", name), end
    finally:
        with contextlib.suppress(TuneyardError):
            tools.kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false")


def _wait(tools: Tools, name: str, timeout_seconds: float) -> p.Termination:
    deadline, why = time.monotonic() + timeout_seconds, ""
    while time.monotonic() < deadline:
        pod: Document = json.loads(tools.kubectl("get", "pod", name, "-o", "json"))
        if p.is_finished(pod) and (end := p.termination_of(pod)):
            return end
        if waiting := p.waiting_for(pod):
            why = f": {waiting.why}"
            if p.is_stuck(pod):
                message = f"A pod can't start in namespace '{tools.namespace}': {waiting.why}."
                raise NotFoundError(message, hint="tuneyard doctor --on kubernetes")
        time.sleep(_POLL_SECONDS)
    raise UnavailableError(
        f"The pod '{name}' did not finish within {timeout_seconds:g} s{why}.",
        hint=f"kubectl get events -n {tools.namespace} --sort-by=.lastTimestamp",
    )
