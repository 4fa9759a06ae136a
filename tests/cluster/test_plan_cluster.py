"""`tuneyard plan --on kubernetes` on a real cluster: now, later, never, and from inside."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

import tuneyard
from lab.cluster.target import MISSING_IMAGE, TargetLab, own_queue, service_account
from lab.cluster.workspaces import QUEUE, kubectl, workspace
from tuneyard.errors import NotFoundError

pytestmark = pytest.mark.cluster

GPU = "gpuResource=amd.com/gpu"
SMALL = ["resources.requests.cpu=100m", "resources.requests.memory=64Mi"]
EVERYTHING = "pods,jobs,configmaps,secrets,services,persistentvolumeclaims"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    with workspace("plan", folder) as made:
        lab = TargetLab(made, folder)
        lab.upload_inputs()
        yield lab


@pytest.fixture(scope="module")
def queue(lab):
    """A queue of one accelerator, so that nobody else's runs count."""
    with own_queue(lab.namespace) as name:
        yield name


@pytest.fixture(scope="module")
def reached(lab):
    """The environment by which this machine reaches the store."""
    access, secret = lab.workspace.keys
    return {
        "TUNEYARD_STORE": lab.workspace.store.url,
        "AWS_CA_BUNDLE": str(lab.folder / "store-ca.crt"),
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_MAX_ATTEMPTS": "20",
    }


def plan(lab, environ, *sets, words=(), rc=0):
    """Run the command; return its document and its stderr."""
    given = [word for one in (GPU, *SMALL, *sets) for word in ("--set", one)]
    done = lab.run("plan", "-f", lab.values("planned"), *given, *words, "--json", rc=rc, environ=environ)
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def finding(document, place):
    return next(one for one in document["findings"] if one["place"] == place)


def objects_in(lab):
    """Return every object of the namespace."""
    return set(kubectl("get", EVERYTHING, "-n", lab.namespace, "-o", "name").split())


def test_a_fitting_run_would_be_admitted_and_nothing_is_created(lab, queue, reached):
    before = objects_in(lab)
    document, _ = plan(lab, reached, f"queueName={queue}")
    assert document["verdict"] == {"fits": "yes", "sentence": "It fits and would be admitted now.", "hint": ""}
    admission = finding(document, "queue")
    assert admission["sentence"].startswith(f"LocalQueue '{queue}' would admit it now: ")
    assert "amd.com/gpu: requested 1, free 1" in admission["sentence"]
    assert finding(document, "nodes")["fits"] == "yes"
    assert document["estimate"]["work"]["steps"] == 4
    assert objects_in(lab) == before


def test_a_run_that_would_wait_is_reported_and_exits_8_with_check_only(lab, queue, reached):
    taking = {"gpuResource": "amd.com/gpu", "queueName": queue, "finetuningImage": MISSING_IMAGE}
    lab.launch("taking", **taking)
    try:
        lab.until("taking", lambda info: info["pods"])  # admitted: its quota is taken, its image never comes
        document, _ = plan(lab, reached, f"queueName={queue}")
        assert document["verdict"]["fits"] == "not now"
        assert (
            "would wait in LocalQueue 'one': amd.com/gpu: requested 1, free 0 of 1" in document["verdict"]["sentence"]
        )
        _, output = plan(lab, reached, f"queueName={queue}", words=["--check"], rc=8)
        assert "hint: Launch it anyway: it starts once there is room." in output
    finally:
        lab.remove("taking")


NEVER = {
    "more than the queue has": (["finetuningGpus=2"], "queue", "amd.com/gpu: requested 2, total 1"),
    "more in all than the queue has": (["nodes=2"], "queue", "amd.com/gpu: requested 2, total 1"),
    "what the queue does not cover": (["gpuResource=example.com/gpu"], "queue", "example.com/gpu is not covered"),
    "more than a node has": (["queueName=", "resources.requests.cpu=4k"], "nodes", "cpu: requested 4000"),
    "no such node": (["queueName=", "nodeSelector.pool=none"], "nodes", "no node matches its nodeSelector"),
    "more memory than its limit": (
        ["queueName=", "gpuResource=", "resources.limits.memory=128Mi"],
        "memory",
        "at most 128 Mi is available",
    ),
}


@pytest.mark.parametrize("case", NEVER)
def test_a_run_that_can_never_start_exits_3_with_a_hint(case, lab, queue, reached):
    sets, place, words = NEVER[case]
    document, output = plan(lab, reached, f"queueName={queue}", *sets, rc=3)
    assert document["verdict"]["fits"] == finding(document, place)["fits"] == "never"
    assert words in finding(document, place)["sentence"]
    assert "error: It can never run: " in output
    assert "hint: " in output


def test_nine_accelerators_never_fit_the_shared_queue_of_eight(lab, reached):
    batch = ["finetuning_config.batchsize_conf.total_train_batch_size=18", "finetuningGpus=9"]
    document, output = plan(lab, reached, f"queueName={QUEUE}", *batch, rc=3)
    assert "amd.com/gpu: requested 9, total 8" in finding(document, "queue")["sentence"]
    assert "hint: Request less: finetuningGpus, nodes, resources.requests. Or raise the queue's quota." in output
    assert document["estimate"]["processes"] == 9


def test_the_namespaces_resource_quota_counts(lab, queue, reached):
    hard = {"hard": {"requests.amd.com/gpu": "0"}}
    where = {"name": "small", "namespace": lab.namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": where, "spec": hard}
    kubectl("apply", "-f", "-", given=json.dumps(quota))
    try:
        document, _ = plan(lab, reached, f"queueName={queue}", rc=3)
    finally:
        kubectl("delete", "resourcequota", "small", "-n", lab.namespace)
    assert "ResourceQuota 'small' can never admit it" in document["verdict"]["sentence"]


def test_a_missing_queue_is_reported_with_the_available_ones(lab, queue, reached):
    _, output = plan(lab, reached, "queueName=nobody", rc=4)
    assert f"The LocalQueue 'nobody' does not exist in namespace '{lab.namespace}'; available: " in output
    assert "hint: --set queueName=" in output


def test_a_store_unreachable_from_this_machine_hints_at_inside(lab):
    done = lab.run("plan", "-f", lab.values("planned"), rc=5, environ=dict.fromkeys(("AWS_ACCESS_KEY_ID",), ""))
    assert f"tuneyard plan --on kubernetes --namespace {lab.namespace} --inside" in done.stderr


def test_inside_reports_the_same_estimate_and_leaves_nothing(lab, queue, reached):
    before = objects_in(lab)
    inside, _ = plan(lab, {}, f"queueName={queue}", words=["--inside"])
    outside, _ = plan(lab, reached, f"queueName={queue}")
    for measured in (inside, outside):  # by the clock, on either machine
        del measured["estimate"]["how"], measured["estimate"]["seconds"]
    assert inside["estimate"] == outside["estimate"]
    assert inside["verdict"]["fits"] == "yes"
    assert remaining_objects(lab) == before


def test_an_error_inside_is_raised_by_the_command_and_leaves_nothing(lab, queue):
    before = objects_in(lab)
    _, output = plan(lab, {}, f"queueName={queue}", "basemodel=default-bucket/models/none", words=["--inside"], rc=4)
    assert "error: There is no model at 'default-bucket/models/none' in 'https://minio" in output
    hint = "Deliver it first: tuneyard deliver --set modelID=… --set bucketModelPath=default-bucket/models/none"
    assert f"hint: {hint}" in output
    _, output = plan(lab, {}, f"finetuningImage={MISSING_IMAGE}", words=["--inside"], rc=4)
    assert f"the image '{MISSING_IMAGE}' can't be pulled" in output
    assert remaining_objects(lab) == before


def test_interrupting_inside_leaves_nothing(lab):
    before = objects_in(lab)
    command = lab.command("plan", "-f", lab.values("planned"), "--inside")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while "pod/tuneyard-plan-" not in " ".join(objects_in(lab)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert remaining_objects(lab) == before


def test_values_that_training_rejects_are_rejected_before_a_pod_is_created(lab):
    _, output = plan(lab, {}, "finetuning_config.method=dpo", words=["--inside"], rc=3)
    assert "finetuning_config.sft_args" in output
    assert 'pods "tuneyard-plan' not in kubectl("get", "events", "-n", lab.namespace)


def test_missing_permissions_are_denied(lab, queue, reached, tmp_path):
    nobody = str(service_account(lab.namespace, tmp_path))
    _, output = plan(lab, {**reached, "KUBECONFIG": nobody}, f"queueName={queue}", rc=5)
    assert "The cluster denied" in output


def test_python_returns_the_same_plan(lab, queue, reached, monkeypatch):
    for name, value in reached.items():
        monkeypatch.setenv(name, value)
    sets = [GPU, *SMALL, f"queueName={queue}"]
    forecast = tuneyard.plan(lab.values("planned"), set=sets, on=tuneyard.Kubernetes(namespace=lab.namespace))
    assert forecast.verdict.fits == "yes"
    assert [finding.place for finding in forecast.findings] == ["queue", "nodes", "memory"]
    with pytest.raises(NotFoundError, match="The namespace 'no-such-namespace' does not exist"):
        tuneyard.plan(lab.values("planned"), set=[GPU], on=tuneyard.Kubernetes(namespace="no-such-namespace"))


def remaining_objects(lab):
    """Return the objects once terminating pods are gone."""
    deadline = time.monotonic() + 60
    while "pod/tuneyard-plan-" in " ".join(objects_in(lab)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return objects_in(lab)
