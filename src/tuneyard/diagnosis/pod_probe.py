"""Probe the bucket from inside the cluster, in a one-off pod with the run's image, Secret and CA bundle.

The pod is removed however the probe ends.
"""

from __future__ import annotations

import json
import secrets
from typing import Any

from tuneyard.cluster import Document, Termination, Tools, run_one_off_pod
from tuneyard.diagnosis.check import Check, from_error, ok, problem, skipped
from tuneyard.diagnosis.requirements import Requirements
from tuneyard.errors import TuneyardError, error_of
from tuneyard.interpreter import pod_python
from tuneyard.store import STORE_VARIABLE
from tuneyard.whereabouts import CHART_VARIABLE

_TIMEOUT_SECONDS = 120


def probe_bucket(tools: Tools, requirements: Requirements, bucket: str) -> Check:
    """Run the store probe in a pod of the namespace.

    Args:
        tools: kubectl for the namespace.
        requirements: What the values require.
        bucket: The bucket to write to.
    """
    name = "bucket from inside"
    if not requirements.store:
        return skipped(name, "the values name no store")
    pod = f"tuneyard-doctor-{secrets.token_hex(4)}"
    try:
        log, end = run_one_off_pod(tools, pod, _spec(requirements, bucket), timeout_seconds=_TIMEOUT_SECONDS)
    except TuneyardError as error:
        return from_error(name, error, "tuneyard doctor --on kubernetes --quick")
    return _read(name, log, end)


def _read(name: str, log: str, end: Termination) -> Check:
    lines = [line for line in log.splitlines() if line.startswith("{")]
    if not lines:
        last = (log.strip() or end.error).splitlines()[-1][:300]
        return problem(name, f"the probe failed in the pod: {last}", "Use an image of this version.", TuneyardError)
    report: dict[str, Any] = json.loads(lines[-1])
    problems = [check for check in report["checks"] if check["outcome"] == "problem"]
    if not problems:
        return ok(name, report["checks"][0]["found"])
    return problem(name, problems[0]["found"], problems[0]["advice"], error_of(problems[0]["exit_code"]))


def _spec(requirements: Requirements, bucket: str) -> Document:
    secret, access, key = requirements.bucket_secret
    env: list[Document] = [
        {"name": "HOME", "value": "/tmp"},  # noqa: S108  (a volume of the pod)
        {"name": CHART_VARIABLE, "value": requirements.verb},
        {"name": STORE_VARIABLE, "value": requirements.store},
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
    config, ca_key = requirements.ca
    ca_bundle = {
        "name": config or "tuneyard-site",
        "optional": not config,
        "items": [{"key": ca_key if config else "ca.crt", "path": "ca.crt"}],
    }
    container: Document = {
        "name": "doctor",
        "image": requirements.image,
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
        "imagePullSecrets": [{"name": secret} for secret in requirements.pull_secrets],
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
            {"name": "ca", "projected": {"sources": [{"configMap": ca_bundle}]}},
        ],
    }
