"""A namespace under the restricted Pod Security standard takes whatever the charts render, without one warning.

Values are combined so that each two settings of different keys meet at least once; the API server judges every object
in a dry run. A loosened context is refused, so that the test can fail.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from lab.charts import DELIVER, NAMESPACE, SERVE, TRAIN, Chart, helm_or_skip, least, pod, render

pytestmark = pytest.mark.cluster

Axes = Mapping[str, Sequence[Any]]
Row = dict[str, Any]
WORKLOAD: Axes = {
    "labels": [{}, {"team": "blue", "kueue.x-k8s.io/queue-name": "kaiwo"}],
    "priorityClass": ["", "high"],
    "imagePullPolicy": ["IfNotPresent", "Always", "Never"],
    "imagePullSecrets": [[], ["regcred"], ["a", "b"]],
    "serviceAccountName": ["", "runner"],
    "nodeSelector": [{}, {"kubernetes.io/os": "linux"}],
    "tolerations": [[], [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]],
    "affinity": [{}, {"podAntiAffinity": {}}],
    "bucketCABundle": [{}, {"configMap": "kube-root-ca.crt"}, {"configMap": "mine", "key": "root.pem"}],
    "resources": [{}, {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"cpu": 2, "memory": "4Gi"}}],
    "networkPolicy": [{}, {"enabled": True}, {"enabled": True, "egressPorts": [80, "8000"]}],
    "terminationGracePeriodSeconds": [None, 5, "77"],
}
JOB: Axes = {
    **WORKLOAD,
    "storageClass": ["", "mlstorage", None],
    "volumeClaim": ["", "mine"],
    "ttlSecondsAfterFinished": [None, 0, 3600],
    "bucketStorageHost": ["", "https://minio:9000", "http://minio"],
    "hfTokenSecret": [{}, {"name": "hub", "key": "t"}],
}
ENV = [{}, {"A": "$(HOME) é 😀", "B": {"name": "s", "key": "k"}}, [{"name": "HTTP_PROXY", "value": "http://p"}]]
GPU_RESOURCE = ["amd.com/gpu", "nvidia.com/gpu", ""]
AXES: dict[Chart, Axes] = {
    DELIVER: {
        **JOB,
        "dataScript": ["", "print('é')\n"],
        "storageQuantity": ["10Gi", "1.5Gi", 1000000000],
        "bucketDataDir": ["a/b"],
    },
    TRAIN: {
        **JOB,
        "finetuningGpus": [1, "8", 3],
        "gpuResource": GPU_RESOURCE,
        "nodes": [1, 2, "3"],
        "downloadsReservedSize": ["64Gi", "500M", "1.5Gi"],
        "sharedMemory": [None, "1Gi"],
        "waitSeconds": [3600, 0],
        "env": ENV,
    },
    SERVE: {
        **WORKLOAD,
        "model": ["org/name", "s3://a/b"],
        "adapters": [{}, {"x": "a/b"}],
        "gpus": [1, 2],
        "gpuResource": GPU_RESOURCE,
        "replicas": [1, 3],
        "env_vars": ENV,
        "apiKeySecret": [{}, {"name": "door"}],
        "storage": [{}, {"storageClassName": "mlstorage"}, {"volumeClaim": "mine"}, {"quantity": "9Gi"}],
        "dshm": [{}, {"sizeLimit": "1Gi"}],
        "probes": [{}, {"startup": {"failureThreshold": 9}}, {"readiness": {"tcpSocket": {"port": "http"}}}],
        "port": [8080, 9000],
    },
    NAMESPACE: {
        "kueue": [{"setup": True}, {"setup": True, "cluster_queue_name": "other"}],
        "external_secret": [{"setup": True}, {"setup": True, "external_secret_name": "other"}, {}],
        "role": [{}, {"setup": True}, {"setup": True, "name": "a", "bindingName": "b"}],
        "site": [{}, {"setup": True, "env": {"HF_ENDPOINT": "http://hub"}}, {"setup": True, "caCert": "PEM"}],
    },
}
ROWS = {DELIVER: 66, TRAIN: 66, SERVE: 66, NAMESPACE: 12}
WARNING = re.compile(r"^Warning: .*", re.MULTILINE)


def pairs_of(row: Mapping[str, int]) -> set[tuple[tuple[str, int], ...]]:
    return set(itertools.combinations(sorted(row.items()), 2))


def pairwise(axes: Axes, count: int) -> Iterator[Row]:
    """Choose at least so many rows, in which each two settings of different axes meet."""
    random_ = random.Random(0)
    missing = {
        tuple(sorted([(one, i), (other, j)]))
        for one, other in itertools.combinations(axes, 2)
        for i in range(len(axes[one]))
        for j in range(len(axes[other]))
    }
    made = 0
    while missing or made < count:
        rows = [{name: random_.randrange(len(settings)) for name, settings in axes.items()} for _ in range(30)]
        if missing:
            rows = [{**row, **dict(next(iter(sorted(missing))))} for row in rows]
        best = max(rows, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        made += 1
        yield {name: axes[name][index] for name, index in best.items()}


def kubectl(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)


def dry_run(objects: Sequence[dict[str, Any]], namespace: str) -> subprocess.CompletedProcess[str]:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    return kubectl("apply", "--dry-run=server", "--namespace", namespace, "--filename", "-", given=text)


@pytest.fixture(scope="module")
def restricted() -> Iterator[str]:
    """A namespace that enforces and warns by the restricted standard."""
    helm_or_skip()
    name = f"charts-restricted-{uuid.uuid4().hex[:6]}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": name, "labels": labels}
    text = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    made = kubectl("create", "--filename", "-", given=text)
    assert made.returncode == 0, made.stderr
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def test_two_hundred_combinations_are_tried_and_each_two_settings_meet():
    assert sum(ROWS.values()) >= 200
    for chart, axes in AXES.items():
        rows = list(pairwise(axes, ROWS[chart]))
        assert len(rows) >= ROWS[chart]
        for one, other in itertools.combinations(axes, 2):
            met = {(json.dumps(row[one]), json.dumps(row[other])) for row in rows}
            assert len(met) == len(axes[one]) * len(axes[other])


@pytest.mark.parametrize("chart", AXES, ids=lambda chart: chart.name)
def test_whatever_a_chart_renders_is_accepted_without_a_warning(chart, restricted):
    objects: list[dict[str, Any]] = []
    rows = list(pairwise(AXES[chart], ROWS[chart]))
    for number, row in enumerate(rows):
        values = least(chart, **row)
        objects += render(chart, values, release=f"row-{number}", namespace=restricted)
    for start in range(0, len(objects), 60):
        batch = objects[start : start + 60]
        done = dry_run(batch, restricted)
        assert done.returncode == 0, done.stderr
        assert WARNING.findall(done.stderr) == []
        assert len(done.stdout.splitlines()) == len(batch)
    assert len(objects) >= len(rows)


@pytest.mark.parametrize(
    "context",
    [{"runAsUser": 0}, {"runAsNonRoot": True}, {"runAsNonRoot": True, "seccompProfile": {"type": "Unconfined"}}],
    ids=["root", "no seccomp profile", "unconfined"],
)
def test_a_loosened_context_is_warned_about_and_its_pod_rejected(context, restricted):
    objects = render(TRAIN, least(TRAIN, podSecurityContext=context), namespace=restricted)
    warned = dry_run(objects, restricted)
    assert any("restricted" in line for line in WARNING.findall(warned.stderr)), warned.stderr
    alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}, "spec": pod(objects)}
    refused = dry_run([alone], restricted)
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_a_restricted_pod_is_accepted(restricted):
    for chart in (DELIVER, TRAIN, SERVE):
        spec = pod(render(chart, chart.least, namespace=restricted))
        alone = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}, "spec": spec}
        let_in = dry_run([alone], restricted)
        assert (let_in.returncode, WARNING.findall(let_in.stderr)) == (0, []), let_in.stderr
