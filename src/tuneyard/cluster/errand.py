"""An errand: one short program run in a pod of the namespace, for what this machine can't reach or see.

The pod is a run's own, without what a run takes: accelerators, queue, nodes, volumes. It is removed however it ends.
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

_LOOK_SECONDS = 0.5
_OWN_SECRET = re.compile(r".+-env-[0-9a-f]{10}")
_GRACE_SECONDS = 5


def errand_spec(run: Document, container: str, command: Sequence[str], *, memory: str = "128Mi") -> Document:
    """Make the spec of an errand's pod from that of a run: its image, keys, authorities, and settings of the site.

    Args:
        run: The spec of the run's pod, with one container.
        container: What the container is called.
        command: What it runs.
        memory: How much memory it requests.
    """
    spec: dict[str, Any] = copy.deepcopy(run)
    (only,) = spec["containers"]
    only["name"], only["command"] = container, list(command)
    only["resources"] = {"requests": {"cpu": "100m", "memory": memory}}
    for terminal in ("tty", "stdin"):
        only.pop(terminal, None)
    only["env"] = [_optional(one) for one in only.get("env") or [] if not one["name"].startswith("TUNEYARD_NODE")]
    for mount in only.get("volumeMounts") or []:
        for below in ("subPath", "subPathExpr"):  # folders of runs, on volumes that are not here
            mount.pop(below, None)
    for where in ("nodeSelector", "nodeName", "subdomain", "schedulingGates"):
        spec.pop(where, None)
    for volume in spec.get("volumes") or []:
        if volume["name"] == "work":
            volume.pop("ephemeral", None)
            volume.pop("persistentVolumeClaim", None)
            volume["emptyDir"] = {}
    return {**spec, "restartPolicy": "Never"}


def _optional(variable: Document) -> Document:
    """Let a variable be absent whose text the run's own Secret would hold: it is there only with the run."""
    reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
    if reference and _OWN_SECRET.fullmatch(reference["name"]):
        return {**variable, "valueFrom": {"secretKeyRef": {**reference, "optional": True}}}
    return variable


def run_errand(tools: Tools, name: str, spec: Document, *, seconds: float, **metadata: Any) -> tuple[str, p.End]:
    """Run a pod to its end, and remove it.

    Args:
        tools: kubectl for the namespace.
        name: The pod's name.
        spec: Its spec.
        seconds: How long it may take, its image's pulling included.
        metadata: More of its metadata, such as `annotations`.

    Returns:
        What it printed, and how it ended.

    Raises:
        NotFoundError: If its image, or a Secret or ConfigMap that it needs, is not there.
        UnavailableError: If it has not ended in time.
    """
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "tuneyard"}, **metadata},
        "spec": {**spec, "activeDeadlineSeconds": int(seconds), "terminationGracePeriodSeconds": _GRACE_SECONDS},
    }
    try:
        tools.kubectl("create", "-f", "-", given=json.dumps(pod))
        end = _end(tools, name, seconds)
        return tools.kubectl("logs", name), end
    finally:
        with contextlib.suppress(TuneyardError):
            tools.kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false")


def _end(tools: Tools, name: str, seconds: float) -> p.End:
    until, why = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        pod: Document = json.loads(tools.kubectl("get", "pod", name, "-o", "json"))
        if p.is_over(pod) and (end := p.end_of(pod)):
            return end
        if waiting := p.waiting_for(pod):
            why = f": {waiting.why}"
            if p.is_stuck(pod):
                hint = "Correct it, or see what tuneyard doctor --on kubernetes says."
                raise NotFoundError(f"A pod could not be started in {tools.namespace}: {waiting.why}.", hint=hint)
        time.sleep(_LOOK_SECONDS)
    raise UnavailableError(
        f"The pod {name} has not ended in {seconds:g} s{why}.",
        hint=f"kubectl get events -n {tools.namespace} --sort-by=.lastTimestamp",
    )
