"""Each prerequisite of a real cluster is taken away in turn, and the doctor's check of that name tells it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuneyard.diagnosis import Report, check_kubernetes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not os.environ.get("KUBECONFIG"), reason="KUBECONFIG names no cluster"),
]

STORE = "https://minio.minio-tenant-default.svc.cluster.local:443"
VALUES: dict[str, Any] = {
    "basemodel": "default-bucket/models/tiny",
    "bucketStorageHost": STORE,
    "bucketCABundle": {"configMap": "store-authorities"},
    "finetuningGpus": 1,
    "gpuResource": "amd.com/gpu",
    "queueName": "kaiwo",
    "storageClass": "mlstorage",
    "finetuning_config": {"data_conf": {"training_data": {"datasets": [{"path": "default-bucket/datasets/x.jsonl"}]}}},
}


def kubectl(*words: str, given: str = "") -> str:
    ran = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def apply(*objects: dict[str, Any]) -> None:
    kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def local_queue(namespace: str, name: str, cluster_queue: str) -> dict[str, Any]:
    return {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "LocalQueue",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterQueue": cluster_queue},
    }


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """Give a namespace in which everything is there."""
    name = f"doctor-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    try:
        keys = json.loads(kubectl("get", "secret", "default-user", "-n", "minio-tenant-default", "-o", "json"))["data"]
        root = json.loads(kubectl("get", "configmap", "kube-root-ca.crt", "-n", name, "-o", "json"))["data"]
        where = {"namespace": name}
        apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "minio-credentials", **where},
                "data": {key: keys[key] for key in ("API_ACCESS_KEY", "API_SECRET_KEY")},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "store-authorities", **where},
                "data": {"ca.crt": root["ca.crt"], "empty": ""},
            },
            local_queue(name, "kaiwo", "kaiwo"),
            local_queue(name, "elsewhere", "no-such-cluster-queue"),
        )
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "values.json"
    path.write_text(json.dumps(VALUES))
    return path


def look(namespace: str, values: Path, *sets: str, quick: bool = True, **environ: str) -> Report:
    return check_kubernetes(
        namespace=namespace, files=[values], sets=sets, quick=quick, environ={**os.environ, **environ}
    )


def problems(report: Report) -> list[str]:
    return [check.name for check in report.checks if check.outcome == "problem"]


def test_where_everything_is_there_nothing_is_a_problem(namespace: str, values: Path):
    report = look(namespace, values)
    assert problems(report) == []
    assert report.exit_code == 0
    assert report.named("quota").found == "1 of 8 amd.com/gpu"
    assert report.named("pod security").found.startswith("restricted is enforced")
    assert "kaiwo is active" in report.named("ClusterQueue").found
    assert "amd.com/gpu" in report.named("accelerators").found
    assert "API_ACCESS_KEY, API_SECRET_KEY" in report.named("secret").found


TAKEN_AWAY = {
    "no such queue": (["queueName=nobody"], "LocalQueue", "there is no LocalQueue nobody", 4),
    "a queue of nothing": (["queueName=elsewhere"], "ClusterQueue", "no-such-cluster-queue", 4),
    "too small a quota": (["finetuningGpus=16"], "quota", "16 asked for, 8 is all there is", 3),
    "an uncovered resource": (["resources.requests.example\\.com/x=1"], "quota", "example.com/x is not covered", 3),
    "no such priority": (["priorityClass=urgent"], "priority class", "no WorkloadPriorityClass urgent", 4),
    "no such storage class": (["storageClass=fast"], "storage class", "there is mlstorage", 4),
    "no such Secret": (["bucketCredentialsSecret.name=nobody"], "secret", "there is no Secret nobody", 4),
    "no such key": (["bucketCredentialsSecret.accessKeyKey=ACCESS"], "secret", "minio-credentials lacks ACCESS", 4),
    "no such pull secret": (["imagePullSecrets={registry}"], "secret", "there is no Secret registry", 4),
    "no CA bundle": (["bucketCABundle.configMap=nobody"], "CA bundle", "there is no ConfigMap nobody", 4),
    "an empty CA bundle": (["bucketCABundle.key=empty"], "CA bundle", "has no certificate under empty", 4),
}


@pytest.mark.parametrize("case", TAKEN_AWAY)
def test_what_is_missing_is_named_and_nothing_else(case: str, namespace: str, values: Path):
    sets, name, said, exit_code = TAKEN_AWAY[case]
    report = look(namespace, values, *sets)
    assert problems(report) == [name]
    found = next(check for check in report.checks if check.outcome == "problem")
    assert said in found.found
    assert found.advice
    assert report.exit_code == exit_code


def test_an_accelerator_that_no_node_has_is_named_with_those_there_are(namespace: str, values: Path):
    report = look(namespace, values, "gpuResource=example.com/gpu")
    assert problems(report) == ["quota", "accelerators"]
    assert "8 nvidia.com/gpu" in report.named("accelerators").found
    assert report.exit_code == 8


def test_the_values_of_secrets_are_never_told(namespace: str, values: Path):
    told = json.dumps(look(namespace, values).to_dict())
    data = json.loads(kubectl("get", "secret", "minio-credentials", "-n", namespace, "-o", "json"))["data"]
    for value in data.values():
        assert value not in told
        assert base64.b64decode(value).decode() not in told


def test_keys_of_the_site_that_nothing_reads_are_named(namespace: str, values: Path):
    where = {"name": "tuneyard-site", "namespace": namespace}
    apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": {"HF_ENDPOINT": "x", "HF_HOME": "y"}})
    try:
        found = look(namespace, values).named("site")
        assert (found.outcome, found.found) == ("warning", "tuneyard-site has keys that nothing reads: HF_HOME")
    finally:
        kubectl("delete", "configmap", "tuneyard-site", "-n", namespace)


def test_an_external_secret_that_is_not_synced_is_named(namespace: str, values: Path):
    apply(
        {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ExternalSecret",
            "metadata": {"name": "late", "namespace": namespace},
            "spec": {
                "secretStoreRef": {"name": "nobody", "kind": "ClusterSecretStore"},
                "target": {"name": "late"},
                "dataFrom": [{"extract": {"key": "nobody"}}],
            },
        }
    )
    try:
        found = look(namespace, values).named("ExternalSecret")
        assert found.outcome == "problem"
        assert found.found.startswith("late is not synced: ")
        assert found.advice == f"kubectl describe externalsecret late -n {namespace}"
    finally:
        kubectl("delete", "externalsecret", "late", "-n", namespace)


def test_a_namespace_that_is_not_there_is_named(values: Path):
    report = look("no-such-namespace", values)
    assert "namespace" in problems(report)
    assert report.named("namespace").advice == "kubectl create namespace no-such-namespace"
    assert report.named("bucket from inside").outcome == "skipped"


def test_rights_that_are_missing_are_named_by_verb_and_resource(namespace: str, values: Path, tmp_path: Path):
    kubectl("create", "serviceaccount", "reader", "-n", namespace)
    kubectl("create", "role", "reader", "-n", namespace, "--verb=get,list,watch", "--resource=jobs,pods,pods/log")
    kubectl("create", "rolebinding", "reader", "-n", namespace, "--role=reader", f"--serviceaccount={namespace}:reader")
    token = kubectl("create", "token", "reader", "-n", namespace).strip()
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    (tmp_path / "reader.conf").write_text(json.dumps(config))

    report = look(namespace, values, KUBECONFIG=str(tmp_path / "reader.conf"))

    found = report.named("permissions")
    assert found.outcome == "problem"
    assert "create, patch, delete jobs" in found.found
    assert "get, create, patch, delete secrets" in found.found
    assert "pods/log" not in found.found
    assert report.exit_code == 5


def test_an_api_server_that_does_not_answer_is_named(values: Path, tmp_path: Path):
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "nowhere.conf").write_text(json.dumps(config))
    report = look("default", values, KUBECONFIG=str(tmp_path / "nowhere.conf"))
    assert problems(report) == ["API server"]
    assert report.exit_code == 8


def test_an_image_that_is_nowhere_is_named_and_its_pod_removed(namespace: str, values: Path):
    report = look(namespace, values, "finetuningImage=localhost/nobody/nothing:1", quick=False)
    found = report.named("bucket from inside")
    assert (found.outcome, found.exit_code) == ("problem", 4)
    assert "the image localhost/nobody/nothing:1 can't be pulled" in found.found
    assert_no_pod_is_left(namespace)


def test_an_image_without_tuneyard_is_told_in_the_containers_own_words(namespace: str, values: Path):
    pods = json.loads(kubectl("get", "pods", "-A", "-o", "json"))["items"]
    images = {one["image"] for pod in pods for one in pod["spec"]["containers"] if "dns" in one["image"]}
    report = look(namespace, values, f"finetuningImage={min(images)}", quick=False)
    found = report.named("bucket from inside")
    assert found.outcome == "problem"
    assert "python" in found.found
    assert found.advice == "Use an image of this version."
    assert_no_pod_is_left(namespace)


def test_the_bucket_is_reached_from_inside_and_the_pod_removed(namespace: str, values: Path):
    image = "finetuningImage=ghcr.io/tuneyard/train:0.1.0"
    report = look(namespace, values, image, quick=False)
    found = report.named("bucket from inside")
    assert (found.outcome, found.found) == ("ok", f"{STORE} can be reached, and default-bucket written")
    assert_no_pod_is_left(namespace)


def test_a_secret_store_that_is_not_ready_is_named(namespace: str, values: Path):
    where = {"name": "broken", "namespace": namespace}
    server = {"url": "https://kubernetes.default", "caProvider": {"type": "ConfigMap", "name": "nobody", "key": "x"}}
    auth = {"serviceAccount": {"name": "nobody"}}
    provider = {"kubernetes": {"server": server, "auth": auth, "remoteNamespace": namespace}}
    kind = {"apiVersion": "external-secrets.io/v1", "kind": "SecretStore"}
    apply({**kind, "metadata": where, "spec": {"provider": provider}})
    try:
        found = look(namespace, values).named("SecretStore")
        assert found.outcome == "problem"
        assert found.found.startswith("broken is not ready: ")
    finally:
        kubectl("delete", "secretstore", "broken", "-n", namespace)


def assert_no_pod_is_left(namespace: str) -> None:
    deadline = time.monotonic() + 120
    while kubectl("get", "pods", "-n", namespace, "-o", "name"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
