"""`tuneyard plan --on kubernetes` on a real cluster: now, later, never, and from inside."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest
from cluster_lab.target_lab import MISSING_IMAGE, TargetLab, own_queue, service_account
from cluster_lab.workspaces import QUEUE, kubectl, workspace

import tuneyard
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
        lab.lay_out()
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
    """Run the command; give its document and what it said."""
    given = [word for one in (GPU, *SMALL, *sets) for word in ("--set", one)]
    done = lab.run("plan", "-f", lab.values("planned"), *given, *words, "--json", rc=rc, environ=environ)
    return json.loads(done.stdout) if done.stdout else {}, done.stderr


def finding(document, place):
    return next(one for one in document["findings"] if one["place"] == place)


def there(lab):
    """Every object of the namespace."""
    return set(kubectl("get", EVERYTHING, "-n", lab.namespace, "-o", "name").split())


def test_what_fits_would_be_admitted_now_and_nothing_is_made(lab, queue, reached):
    before = there(lab)
    document, _ = plan(lab, reached, f"queueName={queue}")
    assert document["verdict"] == {"fits": "yes", "sentence": "It fits and would be admitted now.", "hint": ""}
    asked = finding(document, "queue")
    assert asked["sentence"].startswith(f"{queue} would admit it now: ")
    assert "1 amd.com/gpu of 1 free" in asked["sentence"]
    assert finding(document, "nodes")["fits"] == "yes"
    assert document["estimate"]["work"]["steps"] == 4
    assert there(lab) == before


def test_what_has_to_wait_is_told_and_is_exit_8_only_where_asked(lab, queue, reached):
    taking = {"gpuResource": "amd.com/gpu", "queueName": queue, "finetuningImage": MISSING_IMAGE}
    lab.launch("taking", **taking)
    try:
        lab.until("taking", lambda info: info["pods"])  # admitted: its quota is taken, its image never comes
        document, _ = plan(lab, reached, f"queueName={queue}")
        assert document["verdict"]["fits"] == "not now"
        assert "would wait in one: amd.com/gpu: 1 asked for, 0 of 1 free" in document["verdict"]["sentence"]
        _, said = plan(lab, reached, f"queueName={queue}", words=["--check"], rc=8)
        assert "hint: Launch it all the same: it waits by itself." in said
    finally:
        lab.remove("taking")


NEVER = {
    "more than the queue has": (["finetuningGpus=2"], "queue", "amd.com/gpu: 2 asked for, 1 is all there is"),
    "more in all than the queue has": (["nodes=2"], "queue", "amd.com/gpu: 2 asked for, 1 is all there is"),
    "what the queue does not cover": (["gpuResource=example.com/gpu"], "queue", "example.com/gpu is not covered"),
    "more than a node has": (["queueName=", "resources.requests.cpu=4k"], "nodes", "cpu: 4000 asked for"),
    "no such node": (["queueName=", "nodeSelector.pool=none"], "nodes", "no node has what its nodeSelector"),
    "more memory than its limit": (
        ["queueName=", "gpuResource=", "resources.limits.memory=128Mi"],
        "memory",
        "128 Mi is the most there is for it",
    ),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_can_never_run_is_exit_3_with_what_to_do(case, lab, queue, reached):
    sets, place, words = NEVER[case]
    document, said = plan(lab, reached, f"queueName={queue}", *sets, rc=3)
    assert document["verdict"]["fits"] == finding(document, place)["fits"] == "never"
    assert words in finding(document, place)["sentence"]
    assert "error: It can never run: " in said
    assert "hint: " in said


def test_nine_accelerators_never_fit_the_shared_queue_of_eight(lab, reached):
    batch = ["finetuning_config.batchsize_conf.total_train_batch_size=18", "finetuningGpus=9"]
    document, said = plan(lab, reached, f"queueName={QUEUE}", *batch, rc=3)
    assert "amd.com/gpu: 9 asked for, 8 is all there is" in finding(document, "queue")["sentence"]
    assert "hint: Ask for less: finetuningGpus, nodes, resources.requests. Or have the queue's quota raised." in said
    assert document["estimate"]["processes"] == 9


def test_the_namespaces_own_quota_counts(lab, queue, reached):
    hard = {"hard": {"requests.amd.com/gpu": "0"}}
    where = {"name": "small", "namespace": lab.namespace}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": where, "spec": hard}
    kubectl("apply", "-f", "-", given=json.dumps(quota))
    try:
        document, _ = plan(lab, reached, f"queueName={queue}", rc=3)
    finally:
        kubectl("delete", "resourcequota", "small", "-n", lab.namespace)
    assert "the namespace's quota small never lets it in" in document["verdict"]["sentence"]


def test_a_queue_that_is_not_there_is_named_with_those_there_are(lab, queue, reached):
    _, said = plan(lab, reached, "queueName=nobody", rc=4)
    assert f"There is no LocalQueue nobody in {lab.namespace}; there is " in said
    assert "hint: --set queueName=" in said


def test_a_store_that_this_machine_does_not_reach_leads_to_the_look_from_inside(lab):
    done = lab.run("plan", "-f", lab.values("planned"), rc=5, environ=dict.fromkeys(("AWS_ACCESS_KEY_ID",), ""))
    assert f"tuneyard plan --on kubernetes --namespace {lab.namespace} --inside" in done.stderr


def test_the_look_from_inside_tells_the_same_and_leaves_nothing(lab, queue, reached):
    before = there(lab)
    inside, _ = plan(lab, {}, f"queueName={queue}", words=["--inside"])
    outside, _ = plan(lab, reached, f"queueName={queue}")
    for measured in (inside, outside):  # by the clock, on either machine
        del measured["estimate"]["how"], measured["estimate"]["seconds"]
    assert inside["estimate"] == outside["estimate"]
    assert inside["verdict"]["fits"] == "yes"
    assert left(lab) == before


def test_a_mistake_inside_is_the_commands_own_and_leaves_nothing(lab, queue):
    before = there(lab)
    _, said = plan(lab, {}, f"queueName={queue}", "basemodel=default-bucket/models/none", words=["--inside"], rc=4)
    assert "error: There is no model at default-bucket/models/none in https://minio" in said
    hint = "Deliver it first: tuneyard deliver --set modelID=… --set bucketModelPath=default-bucket/models/none"
    assert f"hint: {hint}" in said
    _, said = plan(lab, {}, f"finetuningImage={MISSING_IMAGE}", words=["--inside"], rc=4)
    assert f"the image {MISSING_IMAGE} can't be pulled" in said
    assert left(lab) == before


def test_an_interrupted_look_from_inside_leaves_nothing(lab):
    before = there(lab)
    command = lab.command("plan", "-f", lab.values("planned"), "--inside")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while "pod/tuneyard-plan-" not in " ".join(there(lab)):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert left(lab) == before


def test_what_training_refuses_is_refused_before_a_pod_is_made(lab):
    _, said = plan(lab, {}, "finetuning_config.method=dpo", words=["--inside"], rc=3)
    assert "finetuning_config.sft_args" in said
    assert 'pods "tuneyard-plan' not in kubectl("get", "events", "-n", lab.namespace)


def test_who_may_not_look_is_denied(lab, queue, reached, tmp_path):
    nobody = str(service_account(lab.namespace, tmp_path))
    _, said = plan(lab, {**reached, "KUBECONFIG": nobody}, f"queueName={queue}", rc=5)
    assert "denies" in said


def test_from_python_it_is_the_same(lab, queue, reached, monkeypatch):
    for name, value in reached.items():
        monkeypatch.setenv(name, value)
    sets = [GPU, *SMALL, f"queueName={queue}"]
    told = tuneyard.plan(lab.values("planned"), set=sets, on=tuneyard.Kubernetes(namespace=lab.namespace))
    assert told.verdict.fits == "yes"
    assert [finding.place for finding in told.findings] == ["queue", "nodes", "memory"]
    with pytest.raises(NotFoundError, match="no namespace 'no-such-namespace'"):
        tuneyard.plan(lab.values("planned"), set=[GPU], on=tuneyard.Kubernetes(namespace="no-such-namespace"))


def left(lab):
    """What is there once pods that are going have gone."""
    deadline = time.monotonic() + 60
    while "pod/tuneyard-plan-" in " ".join(there(lab)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return there(lab)
