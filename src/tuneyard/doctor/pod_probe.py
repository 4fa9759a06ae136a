"""Whether the bucket can be reached and written from inside: a short pod with the run's image, Secret and authorities.

The pod is removed however the look ends.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from typing import Any

from tuneyard.doctor.asked import Asked
from tuneyard.doctor.check import Check, ok, problem, skipped
from tuneyard.doctor.cluster_reader import ClusterReader, Document
from tuneyard.errors import DeniedError, NotFoundError, TuneyardError, UnavailableError

_SECONDS = 120
_NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}


def bucket_from_inside(cluster: ClusterReader, namespace: str, asked: Asked, bucket: str) -> Check:
    """Run the probe of the store in a pod of the namespace.

    Args:
        cluster: The cluster.
        namespace: The namespace.
        asked: What the values ask for.
        bucket: The bucket to write into.
    """
    name = "bucket from inside"
    if not asked.store:
        return skipped(name, "the values name no store (bucketStorageHost)")
    pod = f"tuneyard-doctor-{secrets.token_hex(4)}"
    at = f"/api/v1/namespaces/{namespace}/pods/{pod}"
    try:
        given = json.dumps(_pod(pod, asked, bucket))
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", given=given)
        ended = _wait(cluster, at)
        if isinstance(ended, Check):
            return ended
        said = cluster.kubectl("logs", "--namespace", namespace, pod)
        return _told(name, said, ended)
    except TuneyardError as error:
        return problem(name, error.message.rstrip("."), error.hint or "tuneyard doctor --quick", type(error))
    finally:
        with contextlib.suppress(TuneyardError):
            cluster.kubectl(
                "delete", "pod", pod, "--namespace", namespace, "--ignore-not-found", "--grace-period=5", "--wait=false"
            )


def _wait(cluster: ClusterReader, at: str) -> Check | Document:
    name = "bucket from inside"
    deadline = time.monotonic() + _SECONDS
    why = "it did not start"
    while time.monotonic() < deadline:
        status: Document = (cluster.get(at) or {}).get("status", {})
        if status.get("phase") in {"Succeeded", "Failed"}:
            return status
        for container in status.get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            why = f"{waiting.get('reason', '')}: {waiting.get('message', '')}" if waiting else "it did not end"
            if waiting.get("reason") in _NO_IMAGE:
                advice = "Correct the image, imagePullSecrets, or load the image on the nodes."
                return problem(name, f"the image {container['image']} can't be pulled", advice, NotFoundError)
            if waiting.get("reason") == "CreateContainerConfigError":
                return problem(name, waiting.get("message", why), "See the checks of secrets and ConfigMaps.")
        for condition in status.get("conditions", []):
            if condition.get("reason") == "Unschedulable":
                why = condition.get("message", "no node has room")
        time.sleep(0.5)
    advice = "kubectl get events --sort-by=.lastTimestamp"
    return problem(name, f"the pod has not ended in {_SECONDS} s: {why[:200]}", advice, UnavailableError)


def _told(name: str, said: str, ended: Document) -> Check:
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        states = [one["state"].get("terminated", {}) for one in ended.get("containerStatuses", [])]
        why = [text for text in (said, *(one.get("message", "") for one in states)) if text.strip()]
        last = why[0].strip().splitlines()[-1][:300] if why else "nothing"
        return problem(name, f"the probe in the pod said: {last}", "Use an image of this version.", TuneyardError)
    report: dict[str, Any] = json.loads(lines[-1])
    bad = [check for check in report["checks"] if check["outcome"] == "problem"]
    if not bad:
        return ok(name, report["checks"][0]["found"])
    kinds = {kind.exit_code: kind for kind in (NotFoundError, DeniedError, UnavailableError)}
    return problem(name, bad[0]["found"], bad[0]["advice"], kinds.get(bad[0]["exit_code"], TuneyardError))


def _pod(name: str, asked: Asked, bucket: str) -> Document:
    secret, access, key = asked.bucket_secret
    env: list[Document] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108  (a volume of the pod's own)
        {"name": "TUNEYARD_STORE", "value": asked.store},
        {"name": "TUNEYARD_CA_FILE", "value": "/etc/tuneyard/ca/ca.crt"},
        {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": secret, "key": access}}},
        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}},
    ]
    env += [
        {
            "name": variable,
            "valueFrom": {"configMapKeyRef": {"name": "tuneyard-site", "key": variable, "optional": True}},
        }
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
    ]
    config, ca_key = asked.ca
    authorities = {
        "name": config or "tuneyard-site",
        "optional": not config,
        "items": [{"key": ca_key if config else "ca.crt", "path": "ca.crt"}],
    }
    container: Document = {
        "name": "doctor",
        "image": asked.image,
        "command": ["python", "-m", "tuneyard.doctor", "--quick", "--bucket", bucket],
        "env": env,
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "ca", "mountPath": "/etc/tuneyard/ca", "readOnly": True},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "tuneyard"}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": _SECONDS,
            "automountServiceAccountToken": False,
            "imagePullSecrets": [{"name": secret} for secret in asked.pull_secrets],
            "securityContext": {
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
                {"name": "ca", "projected": {"sources": [{"configMap": authorities}]}},
            ],
        },
    }
