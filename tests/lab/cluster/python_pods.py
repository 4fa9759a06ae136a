"""A pod that runs a Python program with nothing but the standard library, in a namespace of the tests."""

from __future__ import annotations

import json
import os
from typing import Any

from lab.cluster.workspaces import Workspace, kubectl

IMAGE = os.environ.get("TUNEYARD_TEST_TRAIN_IMAGE", "ghcr.io/tuneyard/train:0.1.0")


def start_python(made: Workspace, name: str, program: str, env: list[dict[str, Any]], **container: Any) -> None:
    """Start a pod under restricted Pod Security, and wait until it runs.

    Args:
        made: Where.
        name: The pod's name, and its label `run`.
        program: What Python runs.
        env: The container's environment.
        container: More of the container.
    """
    own = {
        "name": name,
        "image": IMAGE,
        "command": ["python", "-c", program],
        "env": env,
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        **container,
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"run": name}},
        "spec": {
            "containers": [own],
            "securityContext": security,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
        },
    }
    kubectl("apply", "-n", made.namespace, "-f", "-", given=json.dumps(pod))
    kubectl("wait", f"pod/{name}", "-n", made.namespace, "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
