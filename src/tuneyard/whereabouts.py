"""Whether this process runs on a user's machine or in a pod of a chart, and the names of settings there.

A hint must name what can be changed where its process runs: an environment variable on a machine, a value of the chart
in a pod. Only the charts set `TUNEYARD_CHART` in their containers, so a pod of the user's own counts as a machine. This
module sits at the bottom.
"""

from __future__ import annotations

import os
from pathlib import Path

CHART_VARIABLE = "TUNEYARD_CHART"
"""Set by the charts: `deliver`, `finetune` or `serve`."""

SITE = "tuneyard-site"
"""The ConfigMap with the settings of a site."""

SITE_NAMES = (
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "TUNEYARD_DEVICE",
    "OMP_NUM_THREADS",
    "NCCL_SOCKET_IFNAME",
    "GLOO_SOCKET_IFNAME",
)
"""The environment variables that a site may set for every workload; the charts read no others."""

_AUTHORITIES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_KEYS = {
    "TUNEYARD_STORE": "bucketStorageHost",
    "AWS_ENDPOINT_URL": "bucketStorageHost",
    "AWS_ACCESS_KEY_ID": "bucketCredentialsSecret.name",
    "AWS_SECRET_ACCESS_KEY": "bucketCredentialsSecret.name",
    "AWS_CA_BUNDLE": "bucketCABundle.configMap",
    "HF_TOKEN": "hfTokenSecret.name",
    "TUNEYARD_API_KEY": "apiKeySecret.name",
}
_KEYS_OF_SERVE = {
    "bucketStorageHost": "bucket_storage.host",
    "bucketCredentialsSecret.name": "bucket_storage.credentials.secret_name",
    "hfTokenSecret.name": "hf_token.secret_name",
}
_ENVIRONMENTS = {"finetune": "env", "serve": "env_vars"}
_IMAGES = {"finetune": "finetuningImage"}
_SIZES = {
    "deliver": "storageQuantity",
    "finetune": "downloadsReservedSize and checkpointsReservedSize",
    "serve": "storage.quantity",
}


def chart() -> str:
    """Return the chart whose pod this process runs in: `deliver`, `finetune` or `serve`; empty on a machine."""
    return os.environ.get(CHART_VARIABLE, "")


def fitting(machine: str, pod: str) -> str:
    """Choose the text for where this process runs.

    Args:
        machine: The text for a user's machine.
        pod: The text for a pod of a chart.
    """
    return pod if chart() else machine


def setting(name: str) -> str:
    """Return the name of an environment variable's setting where this process runs.

    Args:
        name: The variable, such as `AWS_CA_BUNDLE`.

    Returns:
        The variable on a machine; in a pod the chart's value, the site's ConfigMap, or the Secret that it comes from.
    """
    if not chart():
        return name
    if name in SITE_NAMES:
        return f"{name} in the ConfigMap {SITE}"
    if name in _AUTHORITIES:
        return f"ca.crt in the ConfigMap {SITE}"
    if key := _key(name):
        kinds = {"configMap": "the ConfigMap", "name": "the Secret", "secret_name": "the Secret"}
        kind = kinds.get(key.rpartition(".")[2], "")
        return f"{kind} that {key} names" if kind else key
    return f"{_ENVIRONMENTS[chart()]}.{name}" if chart() in _ENVIRONMENTS else f"{name} in the image"


def assignment(name: str, value: str) -> str:
    """Return how to configure a setting where this process runs, ready to paste.

    Args:
        name: The environment variable.
        value: Its value on a machine; in a pod, replaced by a Secret's or ConfigMap's name where one holds it.

    Returns:
        `export NAME=value` on a machine, `--set KEY=…` in a pod.
    """
    if not chart():
        return f"export {name}={value}"
    if name in SITE_NAMES:
        return f"--set site.setup=true --set site.env.{name}={value} with the chart k8s-namespace-setup"
    if name in _AUTHORITIES:
        return "--set site.setup=true --set-file site.caCert=ca.pem with the chart k8s-namespace-setup"
    if key := _key(name):
        return f"--set {key}=" + (value if key.endswith(("Host", "host")) else "NAME")
    return f"--set {setting(name)}={value}" if chart() in _ENVIRONMENTS else f"ENV {name}={value} in the image"


def command(words: str) -> str:
    """Return a command of `tuneyard` for the target that this process runs on.

    Args:
        words: The command, such as `tuneyard runs`.
    """
    return fitting(words, f"{words} --on kubernetes")


def installation(extra: str) -> str:
    """Return how to install a missing part of Tuneyard where this process runs.

    Args:
        extra: The extra of the package; empty for the newest version of all.
    """
    words = f'pip install "tuneyard[{extra}]"' if extra else "pip install --upgrade tuneyard"
    return fitting(words, f"Use an image of Tuneyard that contains it: {_IMAGES.get(chart(), 'image')}.")


def more_room(folder: Path | str) -> str:
    """Return how to get more space for a folder.

    Args:
        folder: The folder whose disk is full.
    """
    return fitting(
        f"Free space on its disk: df -h {folder}", f"Request a larger volume: {_SIZES.get(chart(), 'values')}"
    )


def _key(name: str) -> str:
    key = _KEYS.get(name, "")
    return _KEYS_OF_SERVE.get(key, key) if chart() == "serve" else key
