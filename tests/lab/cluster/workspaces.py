"""A namespace for the tests of one file, set up as in the walkthrough, and the bucket as the test process reaches it.

The chart `k8s-namespace-setup` makes it under restricted Pod Security; it is deleted after the tests, and so are their
objects in the bucket. `TUNEYARD_TEST_STORE` and `TUNEYARD_TEST_QUEUE` name another store and queue.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tuneyard.store import Store, open_store

WORKLOADS = Path(__file__).parents[3] / "workloads"
STORE = os.environ.get("TUNEYARD_TEST_STORE", "https://minio.minio-tenant-default.svc.cluster.local:443")
QUEUE = os.environ.get("TUNEYARD_TEST_QUEUE", "kaiwo")
SECRET = "minio-credentials"


def kubectl(*arguments: str, given: str | None = None, timeout_seconds: float = 120) -> str:
    """Run kubectl and return its standard output; a failure shows its standard error."""
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=timeout_seconds)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def helm(chart: str, release: str, namespace: str, values: object) -> str:
    """Render a chart, named by its path under `workloads`."""
    command = ["helm", "template", str(WORKLOADS / chart), "--name-template", release, "--namespace", namespace]
    done = subprocess.run(
        [*command, "-f", "-"], input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Workspace:
    """A namespace with queue, Secret and the site's settings.

    Attributes:
        namespace: Its name.
        store: The bucket, as the test reaches it.
        prefix: The part of the bucket that belongs to these tests.
        keys: What the Secret holds: the access key and the secret key.
    """

    namespace: str
    store: Store
    prefix: str
    keys: tuple[str, str]

    def place(self, key: str) -> str:
        """Map a key to these tests' part of the bucket."""
        return key.replace("default-bucket", self.prefix, 1)

    def upload(self, folder: Path, *, last: str = "manifest.json") -> None:
        """Upload a folder store to these tests' part of the bucket, manifests last, as a delivery does."""
        local = open_store(folder.as_uri())
        for info in sorted(local.list("default-bucket/"), key=lambda one: one.key.endswith(last)):
            self.store.put(self.place(info.key), local.get(info.key).body)


@contextmanager
def workspace(purpose: str, folder: Path) -> Iterator[Workspace]:
    """Make a namespace for the `with` block; remove it and the tests' objects in the bucket afterwards.

    Args:
        purpose: Becomes a part of its name.
        folder: For the store's authorities.
    """
    name = f"{purpose}-{secrets.token_hex(3)}"
    kubectl("create", "namespace", name)
    try:
        kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
        env = {"TUNEYARD_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        values = {
            "kueue": {"setup": True, "cluster_queue_name": QUEUE},
            "external_secret": {"setup": True},
            "site": {"setup": True, "env": env, "caCert": site_authorities(name)},
        }
        kubectl("apply", "-n", name, "-f", "-", given=helm("k8s-namespace-setup/helm", "setup", name, values))
        kubectl("wait", "externalsecret", "--all", "-n", name, "--for=condition=Ready", "--timeout=60s")
        with place_of_store(name, folder) as store:
            prefix = f"default-bucket/{name}"
            try:
                yield Workspace(name, store, prefix, store_keys(name))
            finally:
                store.delete([info.key for info in store.list(f"{prefix}/")])
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def place_of_store(namespace: str, folder: Path) -> Iterator[Store]:
    """Open the store with the keys that a namespace's Secret holds, as this machine reaches it."""
    access, secret = store_keys(namespace)
    authorities = folder / "store-ca.crt"
    authorities.write_text(site_authorities(namespace), encoding="utf-8")
    with _forwarded() as url:
        keys = {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret, "AWS_MAX_ATTEMPTS": "20"}
        yield open_store(url, ca_bundle=authorities, environ=keys)


def store_keys(namespace: str) -> tuple[str, str]:
    """Return the access key and the secret key that a namespace's Secret holds."""
    found = json.loads(kubectl("get", "secret", SECRET, "-n", namespace, "-o", "json"))["data"]
    access, secret = (base64.b64decode(found[key]).decode() for key in ("API_ACCESS_KEY", "API_SECRET_KEY"))
    return access, secret


def site_authorities(namespace: str) -> str:
    """Return the certificates that the cluster's own services are trusted by."""
    return json.loads(kubectl("get", "configmap", "kube-root-ca.crt", "-n", namespace, "-o", "json"))["data"]["ca.crt"]


@contextmanager
def _forwarded() -> Iterator[str]:
    """Reach the store through the cluster's API, whatever network the test runs in."""
    service, namespace, *_ = str(urlsplit(STORE).hostname).split(".")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ports = f"{port}:{urlsplit(STORE).port or 443}"
    command = ["kubectl", "port-forward", "-n", namespace, f"service/{service}", ports]
    ended = threading.Event()

    def forward() -> None:
        while not ended.is_set():  # kubectl gives up when a connection breaks
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as forwarder:
                while forwarder.poll() is None and not ended.wait(0.1):
                    pass
                forwarder.terminate()

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{port}"
    finally:
        ended.set()
        thread.join(10)
