"""Whether the bucket can be reached and written from inside: a short pod with the run's image, Secret and authorities.

The pod is removed however the look ends.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from tuneyard.cluster import Document, Tools
from tuneyard.cluster.errand import run_errand
from tuneyard.cluster.pods import End
from tuneyard.diagnosis.asked import Asked
from tuneyard.diagnosis.check import Check, ok, problem, skipped
from tuneyard.errors import TuneyardError, error_of
from tuneyard.interpreter import pod_python
from tuneyard.whereabouts import CHART_VARIABLE

_SECONDS = 120


def bucket_from_inside(tools: Tools, asked: Asked, bucket: str) -> Check:
    """Run the probe of the store in a pod of the namespace.

    Args:
        tools: kubectl for the namespace.
        asked: What the values ask for.
        bucket: The bucket to write into.
    """
    name = "bucket from inside"
    if not asked.store:
        return skipped(name, "the values name no store (bucketStorageHost)")
    pod = f"tuneyard-doctor-{secrets.token_hex(4)}"
    try:
        said, ended = run_errand(tools, pod, _spec(asked, bucket), seconds=_SECONDS)
    except TuneyardError as error:
        return problem(name, error.message.rstrip("."), error.hint or "tuneyard doctor --quick", type(error))
    return _told(name, said, ended)


def _told(name: str, said: str, ended: End) -> Check:
    lines = [line for line in said.splitlines() if line.startswith("{")]
    if not lines:
        last = (said.strip() or ended.error).splitlines()[-1][:300]
        return problem(name, f"the probe in the pod said: {last}", "Use an image of this version.", TuneyardError)
    report: dict[str, Any] = json.loads(lines[-1])
    bad = [check for check in report["checks"] if check["outcome"] == "problem"]
    if not bad:
        return ok(name, report["checks"][0]["found"])
    return problem(name, bad[0]["found"], bad[0]["advice"], error_of(bad[0]["exit_code"]))


def _spec(asked: Asked, bucket: str) -> Document:
    secret, access, key = asked.bucket_secret
    env: list[Document] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108  (a volume of the pod's own)
        {"name": CHART_VARIABLE, "value": asked.verb},
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
        "command": pod_python("tuneyard.diagnosis", "--quick", "--bucket", bucket),
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
        "restartPolicy": "Never",
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
    }
