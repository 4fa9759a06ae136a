"""The kubernetes target on a real cluster: every verb, as a user types it, and what it costs to be interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

import tuneyard
from lab.cluster.target import (
    MISSING_IMAGE,
    TargetLab,
    killing_kubectl,
    lines_on_a_terminal,
    own_queue,
    service_account,
)
from lab.cluster.workspaces import kubectl, workspace
from lab.training import MODEL
from tuneyard.runners import RunKey
from tuneyard.runners.kubernetes import KubernetesRunner
from tuneyard.runners.waiting import wait_until_ready

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    with workspace("target", folder) as made:
        lab = TargetLab(made, folder)
        lab.upload_inputs()
        yield lab


@pytest.fixture(scope="module")
def finished(lab):
    """A finetuning run that has finished; its name."""
    lab.run("finetune", "-f", lab.values("finished"), "--name", "finished")
    return "finished"


@pytest.fixture(scope="module")
def queue(lab):
    """A LocalQueue whose ClusterQueue has a single accelerator, so that nobody else's runs count."""
    with own_queue(lab.namespace) as name:
        yield name


def test_a_dry_run_prints_valid_manifests_and_starts_nothing(lab):
    output = lab.run("finetune", "-f", lab.values("dry"), "--name", "dry", "--dry-run").stdout
    applied = kubectl("apply", "--dry-run=server", "-f", "-", "-o", "name", given=output).split()
    assert sorted(one.partition("/")[0] for one in applied) == ["configmap", "job.batch"]
    assert lab.objects("dry") == []


def test_a_finished_run_is_shown_with_its_values_progress_and_experiment(lab, finished):
    info = lab.show(finished)
    assert (info["status"], info["exit_code"], info["attempts"]) == ("succeeded", 0, 1)
    assert (info["progress"]["step"], info["progress"]["max_steps"]) == (4, 4)
    assert info["progress"]["loss"] > 0
    assert info["experiment"] == f"{lab.workspace.prefix}/experiments/finished"
    assert lab.workspace.store.head(f"{info['experiment']}/checkpoint-final/manifest.json")
    assert "finetune/finished" in lab.run("runs").stdout
    found = tuneyard.runs("finetune", on=tuneyard.Kubernetes(namespace=lab.namespace))
    assert [run.values_sha256 for run in found if run.name == finished] == [info["values_sha256"]]


def test_a_run_is_joined_rejected_stopped_resumed_and_deleted_with_its_data(lab):
    lab.launch("long", steps=4000)
    created = lab.show("long")["created_at"]
    lab.launch("long", steps=4000)
    assert lab.show("long")["created_at"] == created
    path = lab.values("long", steps=4000)
    other = "finetuning_config.training_args.seed=99"
    refused = lab.run("finetune", "-f", path, "--name", "long", "--detach", "--set", other, rc=6)
    assert "is running with different values: finetuning_config.training_args.seed" in refused.stderr

    far = lab.until("long", lambda info: (info["progress"] or {}).get("step", 0) >= 1)
    assert far["status"] == "running"
    assert lines_on_a_terminal(lab.command("watch", "long"), 150, [r".*of 4000.*loss.*left"])
    stopped = json.loads(lab.run("stop", "long", "--timeout", 120, "--json").stdout)["run"]
    assert (stopped["status"], stopped["why"]) == ("stopped", "stopped on request")
    assert lab.run("watch", "long", rc=143)

    lab.launch("long", steps=4000)
    command = lab.command("logs", "long", "--follow")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as followed:
        assert followed.stdout
        lines = []
        for line in followed.stdout:
            lines.append(line)
            if "resuming from step" in line:
                break
        assert int(lines[-1].strip(".\n").rpartition(" ")[2]) >= far["progress"]["step"], lines
        # The next pod's lines follow in the same stream.
        kubectl("delete", "pod", "-n", lab.namespace, "-l", "job-name=long", "--wait=false")
        for line in followed.stdout:
            lines.append(line)
            if "Attempt 3: resuming from step" in line:
                break
        assert "Attempt 3: resuming from step" in lines[-1]
        lab.run("delete", "long", "--yes", rc=6)
        lab.run("stop", "long", "--timeout", 120)
        followed.communicate(timeout=60)
    assert "objects" in lab.run("delete", "long", "--data", "--yes").stdout
    assert lab.objects("long") == []
    assert not list(lab.workspace.store.list(f"{lab.workspace.prefix}/experiments/long/"))


def test_the_reason_a_run_waits_is_reported_with_its_event(lab):
    image = {"finetuningImage": MISSING_IMAGE, "imagePullPolicy": "Never"}
    held = {
        "image": (image, f"the image '{MISSING_IMAGE}' can't be pulled", "ErrImageNeverPull"),
        "secret": ({"bucketCredentialsSecret": {"name": "nope"}}, "the Secret 'nope' does not exist", "not found"),
        "key": (
            {"bucketCredentialsSecret": {"name": "minio-credentials", "accessKeyKey": "NO"}},
            "the Secret 'minio-credentials' has no key 'NO'",
            "couldn't find key NO",
        ),
        "authority": ({"bucketCABundle": {"configMap": "nope"}}, "the ConfigMap 'nope' does not exist", "FailedMount"),
        "volume": (
            {**image, "storageClass": "nope"},
            "the volume is not bound: storage class 'nope' does not exist",
            "ProvisioningFailed",
        ),
        "node": (
            {**image, "nodeSelector": {"disk": "big"}},
            "no node is suitable: 1 node(s) didn't match",
            "Unschedul",
        ),
        "device": ({**image, "gpuResource": "intel.com/gpu"}, "no node has enough free intel.com/gpu", "Insufficient"),
        "queue": ({**image, "queueName": "nope"}, "LocalQueue 'nope' does not exist", "Inadmissible"),
        "account": (
            {**image, "serviceAccountName": "nope"},
            "the ServiceAccount 'nope' does not exist",
            "FailedCreate",
        ),
    }
    for name, (changes, _, _) in held.items():
        lab.launch(name, **changes)
    for name, (_, why, event) in held.items():
        info = lab.until(name, lambda info, why=why: info["why"].startswith(why))
        assert info["status"] == "queued"
        assert event in info["event"], info
    # The list of runs reports the same reasons.
    listed = lab.run("runs").stdout
    assert all(why in listed for _, why, _ in held.values())
    lab.remove(*held)
    assert all(lab.objects(name) == [] for name in held)


def test_an_exhausted_namespace_quota_is_reported(lab):
    quota = ["create", "quota", "none", "--hard=pods=0", "-n", lab.namespace]
    kubectl(*quota)
    lab.launch("quota", finetuningImage=MISSING_IMAGE, imagePullPolicy="Never")
    info = lab.until("quota", lambda info: "quota" in info["why"])
    kubectl("delete", "quota", "none", "-n", lab.namespace)
    assert info["why"] == "the namespace's quota 'none' is exhausted (requested: pods=1)"
    assert "FailedCreate: " in info["event"]
    lab.remove("quota")


def test_a_queued_run_has_its_position_and_all_bars_fit_the_terminal(lab, queue):
    accelerated = {"queueName": queue, "gpuResource": "amd.com/gpu"}
    lab.launch("first", steps=4000, **accelerated)
    lab.until("first", lambda info: info["status"] == "running")
    idle = {**accelerated, "finetuningImage": MISSING_IMAGE, "imagePullPolicy": "Never"}
    lab.launch("second", **idle)
    lab.launch("third", **idle)
    for place, name in enumerate(("second", "third"), start=1):
        info = lab.until(name, lambda info: "of 2" in info["why"])
        assert info["why"] == f"queued in 'one', position {place} of 2: insufficient free quota for amd.com/gpu"
        assert info["event"].startswith("Pending: couldn't assign flavors")
    values = lab.values("greedy", **idle)
    greedy = ["--set", "finetuningGpus=2", "--set", "finetuning_config.batchsize_conf.total_train_batch_size=8"]
    lab.run("finetune", "-f", values, "--name", "greedy", "--detach", *greedy)
    assert lab.until("greedy", lambda info: "exceeds" in info["why"])["why"].startswith("the request of 2 amd")

    lab.until("first", lambda info: (info["progress"] or {}).get("loss"))
    for width in (80, 150):
        lines = lines_on_a_terminal(lab.command("watch"), width, ("first.*loss.*left", "third.*queued"))
        assert max(map(len, lines)) <= width

    stopped = json.loads(lab.run("stop", "first", "--timeout", 120, "--json").stdout)["run"]
    assert stopped["status"] == "stopped"
    # Kueue has taken it back and leaves it alone; whoever was next is admitted.
    lab.until("second", lambda info: "can't be pulled" in info["why"])
    assert lab.show("first")["status"] == "stopped"
    assert lab.until("third", lambda info: "of" in info["why"])["why"].startswith("queued in 'one', position ")
    lab.remove("first", "second", "third", "greedy")


def test_a_failed_run_ends_the_command_with_its_exit_code_error_and_hint(lab):
    path = lab.values("astray", basemodel=lab.place("default-bucket/models/none"), waitSeconds=0)
    output = lab.run("finetune", "-f", path, "--name", "astray", rc=4).stderr
    assert "models/none" in output and "hint: " in output
    info = lab.show("astray")
    assert (info["status"], info["exit_code"]) == ("failed", 4)
    assert info["error"] and info["error"] in output.replace("\n", " ")
    assert info["error"] in lab.run("runs").stdout
    lab.run("delete", "astray", "--yes")


def test_a_delivery_publishes_a_model(lab):
    sets = [
        f"modelID=s3://{lab.place(MODEL)}",
        f"bucketModelPath={lab.workspace.prefix}/models/copy",
        "bucketStorageHost=https://minio.minio-tenant-default.svc.cluster.local:443",
        "storageClass=",
        "storageQuantity=1Gi",
    ]
    output = lab.run("deliver", *[word for text in sets for word in ("--set", text)], "--name", "copy")
    assert "deliver/copy  succeeded" in output.stdout
    assert lab.workspace.store.head(f"{lab.workspace.prefix}/models/copy/.tuneyard/manifest.json")
    # One name is one Job in a cluster.
    refused = lab.run("finetune", "-f", lab.values("copy"), "--name", "copy", "--detach", rc=6)
    assert "the run 'deliver/copy'" in refused.stderr
    lab.run("delete", "copy", "--yes")


def test_a_run_is_served_chatted_with_and_deleted(lab, finished):
    served = ["serve", finished, "--set", "vllm_engine_args.max_model_len=256", "--json"]
    server = json.loads(lab.run(*served).stdout)["run"]
    assert (server["status"], server["api_key_secret"]) == ("running", "finished-api-key")
    assert server["url"] == f"http://llm-inference-vllm-finished.{lab.namespace}:8080/v1"
    answered = json.loads(lab.run("chat", finished, "What is a manifest?", "--max-tokens", 8, "--json").stdout)
    assert list(answered["answers"]) == ["finished"]
    again = json.loads(lab.run(*served).stdout)["run"]
    assert again["created_at"] == server["created_at"]

    # The way to it holds when the pod behind it changes.
    runner, key = KubernetesRunner(None, lab.namespace), RunKey("serve", finished)
    with runner.reach(key) as reached:
        from tuneyard.chatting import connect

        assert connect(reached.url, reached.api_key).models
        with pytest.raises(tuneyard.TuneyardError) as denied:
            connect(reached.url, "wrong")
        assert denied.value.exit_code == 5
        kubectl("delete", "pod", "-n", lab.namespace, *server["pods"])
        wait_until_ready(runner, key)
        deadline = time.monotonic() + 60
        while True:
            try:
                assert connect(reached.url, reached.api_key).models
                break
            except tuneyard.TuneyardError:
                assert time.monotonic() < deadline
                time.sleep(1)
    stopped = json.loads(lab.run("stop", f"serve/{finished}", "--json").stdout)["run"]
    assert stopped["status"] == "stopped"
    lab.run("chat", finished, "Still there?", rc=8)
    lab.run("delete", f"serve/{finished}", "--yes")
    assert [one for one in lab.objects(finished) if "llm-inference" in one or "api-key" in one] == []
    assert lab.show(finished)["status"] == "succeeded"


def test_a_log_has_a_prefix_per_node(lab):
    lab.run("finetune", "-f", lab.values("nodes", nodes=2), "--name", "nodes")
    lines = lab.run("logs", "nodes").stdout.splitlines()
    assert {line[:3] for line in lines} == {"[0]", "[1]"}
    info = lab.show("nodes")
    assert (info["status"], len(info["pods"]), info["attempts"]) == ("succeeded", 2, 1)
    lab.run("delete", "nodes", "--yes")
    assert lab.objects("nodes") == []


@pytest.mark.parametrize("when", ["before", pytest.param("after", marks=pytest.mark.soak)])
def test_a_command_killed_at_any_call_converges_when_repeated(lab, tmp_path, when):
    name = f"killed-{when}"
    killing_kubectl(tmp_path)
    idle = {"finetuningImage": MISSING_IMAGE, "imagePullPolicy": "Never"}
    lab.launch(name, **idle)
    lab.run("stop", name)

    def killed_at(call, *words):
        count = tmp_path / f"count-{call}-{words[0]}"
        environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "KILL_COUNT": str(count)}
        environ |= {"KILL_CALL": str(call), "KILL_WHEN": when}
        done = subprocess.run(
            lab.command(*words), env={**os.environ, **environ}, capture_output=True, text=True, timeout=240
        )
        assert done.returncode in (0, -9), done.stderr
        return done.returncode == -9

    # From a stopped run to one with other values: the old Job goes, values and Job are made, old values are removed.
    kills = 0
    for call in range(1, 8):
        launch = ["finetune", "-f", lab.values(name, steps=10 + call, **idle), "--name", name, "--detach"]
        killed = killed_at(call, *launch)
        kills += killed
        lab.run(*launch)
        kinds = sorted(one.partition("/")[0] for one in lab.objects(name) if not one.startswith("pod"))
        assert kinds == ["configmap", "job.batch"]
        assert lab.show(name)["status"] == "queued"
        if not killed:
            break
        lab.run("stop", name)
    assert kills >= 4

    stops = 0
    for call in range(1, 4):
        stops += killed_at(call, "stop", name)
        lab.run("stop", name)
        assert lab.show(name)["status"] == "stopped"
        lab.run("finetune", "-f", lab.values(name, **idle), "--name", name, "--detach")
    assert stops >= 1
    lab.run("stop", name)
    assert killed_at(1, "delete", name, "--yes")
    assert [one for one in lab.objects(name) if one.startswith("job")]
    assert killed_at(2, "delete", name, "--yes")
    if lab.objects(name):
        lab.run("delete", name, "--yes")
    assert lab.objects(name) == []


def test_denied_unreachable_and_missing_are_distinct_errors(lab, tmp_path):
    nobody = service_account(lab.namespace, tmp_path)
    denied = lab.run("runs", rc=5, environ={"KUBECONFIG": str(nobody)})
    assert "denied reading the Jobs of the namespace" in denied.stderr
    assert "hint: List the missing permissions: tuneyard doctor --on kubernetes" in denied.stderr
    path = lab.values("denied")
    lab.run("finetune", "-f", path, "--name", "denied", "--detach", rc=5, environ={"KUBECONFIG": str(nobody)})

    config = json.loads(nobody.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    nowhere = tmp_path / "nowhere.conf"
    nowhere.write_text(json.dumps(config))
    unreachable = lab.run("runs", rc=8, environ={"KUBECONFIG": str(nowhere)})
    assert "The API server is unreachable" in unreachable.stderr
    absent = lab.run("runs", rc=4, environ={"KUBECONFIG": str(tmp_path / "none.conf")})
    assert "kubeconfig" in absent.stderr

    elsewhere = TargetLab(lab.workspace, lab.folder)
    command = [*elsewhere.command("runs")[:-1], "not-there"]
    missing = subprocess.run(command, capture_output=True, text=True)
    assert missing.returncode == 4 and "The namespace 'not-there' does not exist" in missing.stderr
    launched = [*lab.command("finetune", "-f", path, "--name", "x", "--detach")[:-1], "not-there"]
    missing = subprocess.run(launched, capture_output=True, text=True)
    assert missing.returncode == 4 and "The namespace 'not-there' does not exist" in missing.stderr


def test_missing_and_old_tools_are_reported_with_what_to_install(lab, tmp_path):
    path = lab.values("tools")
    launch = ["finetune", "-f", path, "--name", "tools", "--detach"]
    output = lab.run(*launch, rc=8, environ={"PATH": str(tmp_path)}).stderr
    assert "kubectl is not on PATH" in output and "hint: Install kubectl 1.27" in output
    old = tmp_path / "helm"
    old.write_text("#!/bin/sh\necho v3.9.0+g7ceeda6\n")
    old.chmod(0o755)
    path_ = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    output = lab.run(*launch, rc=8, environ={"PATH": path_}).stderr
    assert "The version 'v3.9.0+g7ceeda6' of helm is not supported" in output and "hint: Install Helm 3.14" in output
    assert lab.objects("tools") == []
