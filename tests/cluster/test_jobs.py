"""Training Jobs on a real cluster: what every way of ending them costs, and that it costs no step.

The Jobs are rendered from the chart and run the image; the model is tiny. Most request no accelerator, so that these
tests don't wait for other people's; the preemption has a ClusterQueue of its own, so that nobody else is preempted.
"""

from __future__ import annotations

import base64
import json
import re

import pytest

from lab.cluster.training_jobs import training_jobs, until
from lab.cluster.workspaces import QUEUE, kubectl, workspace
from lab.training import ARGUMENTS, DATA, MODEL, changed, deliver_inputs
from tuneyard.store import open_store

pytestmark = pytest.mark.cluster

EVERY_STEP = {ARGUMENTS + "logging_steps": 1, ARGUMENTS + "eval_strategy": "no"}
# Long enough to be disturbed in; every step is logged, so that every step is compared.
LONG = changed(**EVERY_STEP, **{ARGUMENTS + "max_steps": 600, ARGUMENTS + "save_steps": 100})
SHORT = changed(**EVERY_STEP, **{ARGUMENTS + "max_steps": 4, ARGUMENTS + "save_steps": 2})
# Six conversations a step are shared by 1, 2 or 3 processes alike; without dropout the losses are the same.
SHARED = changed(
    SHORT,
    **{
        "finetuning_config.batchsize_conf.total_train_batch_size": 6,
        "finetuning_config.batchsize_conf.max_per_device_train_batch_size": 1,
        "finetuning_config.peft_conf.peft_kwargs.lora_dropout": 0.0,
    },
)
NODES = changed(SHARED, **{ARGUMENTS + "max_steps": 400, ARGUMENTS + "save_steps": 20})
ONE = "tuneyard-jobs-one"
GATE_PORT = 3128

# A proxy that passes bytes on: what a training pod reaches the bucket through, where the test wants to cut it off.
GATE = """
import socket, threading

def pump(source, target):
    try:
        while body := source.recv(65536):
            target.sendall(body)
    except OSError:
        pass
    finally:
        target.close()

def serve(client):
    head = b""
    while b"\\r\\n\\r\\n" not in head:
        head += client.recv(65536)
    host, _, port = head.split()[1].decode().rpartition(":")
    server = socket.create_connection((host, int(port)))
    client.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    pump(server, client)

listener = socket.create_server(("", 3128))
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Training Jobs in a namespace of their own, with a tiny model and conversations in the bucket."""
    folder = tmp_path_factory.mktemp("jobs")
    deliver_inputs(folder / "store")
    with workspace("tuneyard-jobs", folder) as made, training_jobs(made, folder) as jobs:
        made.upload(folder / "store")
        jobs.common.update(
            {
                "basemodel": jobs.place(MODEL),
                "finetuning_config.data_conf.training_data.datasets": [{"path": jobs.place(DATA)}],
                "queueName": QUEUE,
            }
        )
        yield jobs


@pytest.fixture(scope="module")
def finished(jobs):
    """A run of four steps that has finished; its name."""
    jobs.apply("finished", jobs.values(SHORT, "finished"))
    jobs.complete("finished")
    return "finished"


def resumed_from(jobs, pod):
    """Return the step from which a pod logged that it resumes."""
    return int(jobs.until_output(pod, r"Attempt \d+: resuming from step (\d+)")[1])


def stopped_at(jobs, pod):
    """Return the step at which a pod logged that it stopped."""
    return int(jobs.until_output(pod, r"Stopped after step (\d+)")[1])


def assert_same_training(jobs, name, other):
    rows, others = jobs.metrics(name), jobs.metrics(other)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 601))
    differing = [(row, beside) for row, beside in zip(rows, others, strict=True) if row != beside]
    assert not differing, differing[:3]


def test_a_deleted_evicted_or_drained_pod_saves_and_the_next_resumes_at_that_step(jobs):
    disturb = {
        "deleted": lambda pod: kubectl("delete", "pod", pod, "-n", jobs.namespace, "--wait=false"),
        "evicted": jobs.evict,
        "drained": lambda pod: jobs.drain("drained", pod),
    }
    for job in ("left-alone", *disturb):
        jobs.apply(job, jobs.values(LONG, job))
    first = {job: jobs.running(job) for job in disturb}
    for job, pod in first.items():
        jobs.until_step(pod, 20)
        disturb[job](pod)
    for job, pod in first.items():
        end = jobs.ended(pod)
        assert end.code == 143, (job, end, jobs.output_of(pod))
        step = stopped_at(jobs, pod)
        assert f"checkpoint-{step}-1" in jobs.checkpoints(job)
        assert resumed_from(jobs, jobs.running(job, besides=(pod,))) == step
    for job in ("left-alone", *disturb):
        jobs.complete(job)
    for job, pod in first.items():
        status = jobs.job(job)["status"]
        assert status.get("failed", 0) == 0, "an end that nobody is to blame for must not use up backoffLimit"
        assert [(end.pod == pod, end.code) for end in jobs.ends(job)] == [(True, 143), (False, 0)]
        assert_same_training(jobs, job, "left-alone")


# ---- mistakes ----


@pytest.fixture(scope="module")
def refused(jobs, finished):
    """Six Jobs that can't succeed, all applied at once; each reports why."""
    keys = {"API_ACCESS_KEY": "nobody-knows-this-key", "API_SECRET_KEY": "nor-this-secret-of-it"}
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in keys.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong-keys"}, "data": encoded}
    kubectl("apply", "-n", jobs.namespace, "-f", "-", given=json.dumps(secret))
    jobs.copy(finished, "damaged")
    only_final = [info.key for info in jobs.store.list(f"{jobs.remote('damaged')}/checkpoint-final/")]
    jobs.store.delete(only_final)
    for name in jobs.checkpoints("damaged"):
        key = f"{jobs.remote('damaged')}/{name}/optimizer.pt"
        body = bytearray(jobs.store.get(key).body)
        body[len(body) // 2] ^= 1
        jobs.store.put(key, bytes(body))
    rows = [{"messages": [{"role": "user", "content": "a"}]}, {"text": "a"}]
    deliver_inputs(jobs.folder / "bad" / "store", rows=rows)
    local = open_store((jobs.folder / "bad" / "store").as_uri())
    place = DATA.rpartition("/")[0]
    for info in local.list(f"{place}/"):
        jobs.store.put(jobs.place(info.key.replace("/datasets/", "/bad/")), local.get(info.key).body)
    bad = [{"path": jobs.place(DATA.replace("/datasets/", "/bad/"))}]
    several = {"finetuning_config.batchsize_conf.total_train_batch_size": 4}
    values = {
        "unsupported": jobs.values(SHORT, "unsupported", distributedType="auto-deepspeed-stage3", **several),
        "bad-rows": jobs.values(SHORT, "bad-rows", **{"finetuning_config.data_conf.training_data.datasets": bad}),
        "not-there": jobs.values(SHORT, "not-there", basemodel=jobs.place("default-bucket/absent"), waitSeconds=1),
        "wrong-key": jobs.values(SHORT, "wrong-key", **{"bucketCredentialsSecret.name": "wrong-keys"}),
        "other-settings": jobs.values(SHORT, finished, **{ARGUMENTS + "learning_rate": 0.5}),
        "damaged": jobs.values(SHORT, "damaged"),
    }
    for job, given in values.items():
        jobs.apply(job, given)
    return values


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        ("unsupported", 3, "distributedType"),
        ("bad-rows", 3, "chat.jsonl"),
        ("not-there", 4, "There is no model at '.*/absent' in 'https://"),
        ("wrong-key", 5, "minio-credentials|access key|credentials|denied"),
        ("other-settings", 6, "learning_rate"),
        ("damaged", 7, "optimizer.pt"),
    ],
)
def test_an_invalid_job_fails_immediately_with_one_pod_and_a_message(jobs, refused, job, code, words):
    outcome = jobs.outcome(job)
    assert (outcome["type"], outcome["reason"]) == ("Failed", "PodFailurePolicy")
    (end,) = jobs.ends(job)
    assert end.code == code
    assert end.words["exit_code"] == code
    assert re.search(words, end.words["error"]), end.words
    assert end.words["hint"]
    assert "Traceback" not in jobs.output_of(end.pod)


def test_a_temporarily_unreachable_bucket_is_retried_by_the_next_pod(jobs, finished):
    apply_gate(jobs, open_to="nobody")
    proxy = {"HTTPS_PROXY": f"http://gate.{jobs.namespace}:{GATE_PORT}", "OMP_NUM_THREADS": "1"}
    jobs.apply("cut-off", jobs.values(SHORT, "cut-off", env=proxy))
    first = jobs.ended(jobs.running("cut-off"))
    assert first.code == 8, jobs.output_of(first.pod)
    assert first.words["exit_code"] == 8
    apply_gate(jobs, open_to="gate")
    jobs.complete("cut-off", despite=(8,))
    assert [end.code for end in jobs.ends("cut-off")][-1] == 0
    assert {end.code for end in jobs.ends("cut-off")[:-1]} == {8}
    assert jobs.job("cut-off")["status"]["failed"] >= 1
    assert len(jobs.losses("cut-off")) == 4


def apply_gate(jobs, *, open_to):
    """Make the proxy and its Service, which leads to the proxy or to nobody."""
    container = {
        "name": "gate",
        "image": jobs.image(),
        "command": ["python", "-c", GATE],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "gate", "labels": {"run": "gate"}},
        "spec": {"containers": [container], "securityContext": security, "terminationGracePeriodSeconds": 0},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "gate"},
        "spec": {"selector": {"run": open_to}, "ports": [{"port": GATE_PORT}]},
    }
    both = {"apiVersion": "v1", "kind": "List", "items": [pod, service]}
    kubectl("apply", "-n", jobs.namespace, "-f", "-", given=json.dumps(both))
    kubectl("wait", "pod/gate", "-n", jobs.namespace, "--for=condition=Ready", "--timeout=60s")


# ---- waiting, and nothing to do ----


def test_finetuning_applied_before_its_delivery_waits_and_continues(jobs):
    model = jobs.place("default-bucket/late")
    jobs.apply("early", jobs.values(SHORT, "early", basemodel=model))
    pod = jobs.running("early")
    jobs.until_output(pod, "(?i)wait")
    assert "late" in jobs.output_of(pod)
    assert not jobs.ends("early")
    local = open_store((jobs.folder / "store").as_uri())
    for info in sorted(local.list(f"{MODEL}/"), key=lambda one: one.key.endswith("manifest.json")):
        jobs.store.put(info.key.replace(MODEL, model, 1), local.get(info.key).body)
    jobs.complete("early")
    assert [end.pod for end in jobs.ends("early")] == [pod], "one pod waited and trained"
    assert len(jobs.losses("early")) == 4


@pytest.fixture(scope="module")
def one_accelerator(jobs):
    """A queue with room for one accelerator, with the flavor of the cluster's own."""
    known = json.loads(kubectl("get", "clusterqueues", "-o", "json"))["items"]
    flavor = known[0]["spec"]["resourceGroups"][0]["flavors"][0]["name"]
    quota = {"name": flavor, "resources": [{"name": "amd.com/gpu", "nominalQuota": 1}]}
    queue = {
        "apiVersion": known[0]["apiVersion"],
        "kind": "ClusterQueue",
        "metadata": {"name": ONE},
        "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": jobs.namespace}},
            "preemption": {"withinClusterQueue": "LowerPriority"},
            "resourceGroups": [{"coveredResources": ["amd.com/gpu"], "flavors": [quota]}],
        },
    }
    local = {
        "apiVersion": known[0]["apiVersion"],
        "kind": "LocalQueue",
        "metadata": {"name": ONE, "namespace": jobs.namespace},
        "spec": {"clusterQueue": ONE},
    }
    kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": [queue, local]}))
    yield {"gpuResource": "amd.com/gpu", "queueName": ONE}
    kubectl("delete", "localqueue", ONE, "-n", jobs.namespace, "--wait=false")
    kubectl("delete", "clusterqueue", ONE, "--wait=false")


def test_a_finished_run_applied_twice_exits_before_loading_torch(jobs, finished, one_accelerator):
    head = jobs.store.get(f"{jobs.remote(finished)}/HEAD").body
    again = jobs.values(SHORT, finished, **one_accelerator)
    jobs.apply("again", again)
    jobs.complete("again")
    jobs.delete("again")
    assert not jobs.job_exists("again")
    jobs.apply("again", again)
    jobs.complete("again")
    ends = jobs.ends("again")
    assert [end.code for end in ends] == [0, 0]
    log = jobs.output_of(ends[-1].pod)
    assert "nothing to do" in log
    assert "Loading torch" not in log
    assert jobs.store.get(f"{jobs.remote(finished)}/HEAD").body == head
    until(lambda: accelerators_in_use() == 0, "the accelerator is given back")


def accelerators_in_use():
    status = json.loads(kubectl("get", "clusterqueue", ONE, "-o", "json"))["status"]
    return sum(int(one["total"]) for flavor in status["flavorsUsage"] for one in flavor["resources"])


# ---- preemption ----


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.timeout(3600)
def test_a_preempted_job_resumes_at_the_same_step(jobs, finished, one_accelerator, times):
    job = f"preempted-{times}"
    values = changed(LONG, **{ARGUMENTS + "max_steps": 150 * (times + 1)})
    jobs.apply(job, jobs.values(values, job, **one_accelerator))
    pods, step = (jobs.running(job),), 0
    for number in range(times):
        jobs.until_step(pods[-1], step + 20)
        urgent = f"urgent-{times}-{number}"
        jobs.apply(urgent, jobs.values(SHORT, finished, priorityClass="high", **one_accelerator))
        end = jobs.ended(pods[-1])
        assert end.code == 143, jobs.output_of(end.pod)
        step = stopped_at(jobs, pods[-1])
        assert f"checkpoint-{step}-{number + 1}" in jobs.checkpoints(job)
        jobs.complete(urgent)
        pods = (*pods, jobs.running(job, besides=pods))
        assert resumed_from(jobs, pods[-1]) == step
        assert evictions(jobs, job) == {"Preempted": number + 1}
    assert jobs.job(job)["status"].get("failed", 0) == 0
    jobs.complete(job)
    steps = [row["step"] for row in jobs.metrics(job) if row["kind"] == "train"]
    assert steps == list(range(1, 150 * (times + 1) + 1)), "each step once"


def evictions(jobs, job):
    """Return how often Kueue has evicted a Job's workload, by reason."""
    uid = jobs.job(job)["metadata"]["uid"]
    selector = f"kueue.x-k8s.io/job-uid={uid}"
    listed = kubectl("get", "workloads", "-n", jobs.namespace, "-l", selector, "-o", "json")
    (workload,) = json.loads(listed)["items"]
    found = workload["status"].get("schedulingStats", {}).get("evictions", [])
    return {one["reason"]: one["count"] for one in found}


# ---- any number of accelerators and nodes ----


MAKERS = {"two-of-amd": (2, "amd.com/gpu"), "three-of-nvidia": (3, "nvidia.com/gpu"), "two-on-the-cpu": (2, "")}


@pytest.fixture(scope="module")
def shared(jobs):
    """Four runs of the same steps, applied at once: in one process, and shared by several."""
    jobs.apply("one", jobs.values(SHARED, "one"))
    for job, (processes, resource) in MAKERS.items():
        jobs.apply(job, jobs.values(SHARED, job, finetuningGpus=processes, gpuResource=resource))
    jobs.complete("one")
    return jobs.losses("one")


@pytest.mark.parametrize("job", MAKERS)
def test_any_number_of_accelerators_of_any_vendor_has_the_losses_of_one_process(jobs, shared, job):
    processes, resource = MAKERS[job]
    jobs.complete(job)
    (pod,) = jobs.watch.of(job)
    (container,) = [one for one in pod["spec"]["containers"] if one["name"] == "finetune"]
    limits = container["resources"].get("limits", {})
    assert {name: count for name, count in limits.items() if "/" in name} == (
        {resource: str(processes)} if resource else {}
    )
    assert len(shared) == 4
    assert jobs.losses(job) == pytest.approx(shared, abs=1e-5, rel=0)


def test_two_nodes_train_as_one_process_and_resume_together_after_a_kill(jobs):
    jobs.apply("alone", jobs.values(NODES, "alone"))
    jobs.apply("nodes", jobs.values(NODES, "nodes", nodes=2))
    first = [jobs.running("nodes", index=index) for index in range(2)]
    jobs.until_step(first[0], 30)
    jobs.kill_processes(first[1])
    ends = [jobs.ended(pod) for pod in first]
    assert all(end.code not in (0, 3, 4, 5, 6, 7) for end in ends), ends
    second = [jobs.running("nodes", index=index, besides=tuple(first)) for index in range(2)]
    assert resumed_from(jobs, second[0]) >= 20
    jobs.complete("nodes", despite=tuple(end.code for end in ends))
    jobs.complete("alone")
    rows = [row["step"] for row in jobs.metrics("nodes") if row["kind"] == "train"]
    assert rows == list(range(1, 401))
    assert jobs.losses("nodes") == pytest.approx(jobs.losses("alone"), abs=1e-3, rel=0)
