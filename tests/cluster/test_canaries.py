"""No secret is shown: a delivery with a token, a finetuning, one with wrong keys and a server, and then everything that
a cluster, its logs, the command and the bucket show is searched for the secrets they ran with.
"""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from lab.cluster.canaries import find
from lab.cluster.python_pods import start_python
from lab.cluster.training_jobs import training_jobs, until
from lab.cluster.workspaces import STORE, helm, kubectl, workspace
from lab.tiny_models import make_model
from lab.training import ARGUMENTS, changed, conversations

pytestmark = pytest.mark.cluster

MODEL = "org/tiny"
HUB = """
import os, pathlib, sys, time
sys.path.insert(0, "/tmp/hub")
while not os.path.exists("/tmp/hub/all-here"):
    time.sleep(0.2)
from lab.hub_server import hub_server
with hub_server("0.0.0.0", (8000, 8001), os.environ["HOST"]) as hub:
    hub.token = os.environ["TOKEN"]
    folder = pathlib.Path("/tmp/hub/model")
    hub.add_model("org/tiny", {path.name: path.read_bytes() for path in folder.iterdir()}, gated=True)
    time.sleep(86400)
"""
UNPACK = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/tmp/hub')"
REQUEST = """
import json, os, urllib.request
body = {"model": "tune", "messages": [{"role": "user", "content": "a yard?"}], "max_tokens": 4}
headers = {"Authorization": "Bearer " + os.environ["TUNEYARD_API_KEY"], "Content-Type": "application/json"}
url = "http://127.0.0.1:8080/v1/chat/completions"
print(urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).status)
"""
ROWS = json.dumps(conversations(25))
SCRIPT = f"""
import json, pathlib
rows = json.loads({ROWS!r})
target = pathlib.Path("/downloads/datasets/chat.jsonl")
target.write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""
# Everything of a namespace but the Secrets themselves, and what only repeats the cluster's own state.
LEFT_OUT = ("secrets", "endpoints", "endpointslices.discovery.k8s.io", "leases.coordination.k8s.io")


@pytest.fixture(scope="module")
def canaries():
    """The secrets of this test, other than the bucket's real keys; each changes when it is URL-encoded."""
    return {
        "the hub's token": f"hf_{secrets.token_hex(12)}",
        "the server's key": f"sk+{secrets.token_hex(8)}/{secrets.token_hex(4)}=",
        "the wrong access key": f"AK{secrets.token_hex(9)}",
        "the wrong secret key": f"{secrets.token_hex(8)}+/{secrets.token_hex(8)}=",
    }


@pytest.fixture(scope="module")
def ran(canaries, tmp_path_factory):
    """A namespace in which everything has run once, still there; with all its secrets by name."""
    folder = tmp_path_factory.mktemp("canaries")
    with workspace("tuneyard-canaries", folder) as made, training_jobs(made, folder) as jobs:
        names = list(canaries)
        apply_secret(made, "hub", {"token": canaries[names[0]]})
        apply_secret(made, "server", {"api-key": canaries[names[1]]})
        apply_secret(made, "wrong", {"API_ACCESS_KEY": canaries[names[2]], "API_SECRET_KEY": canaries[names[3]]})
        start_hub(made, make_model(folder / "model", hidden=256, layers=1))
        deliver = {
            "bucketStorageHost": STORE,
            "modelID": MODEL,
            "bucketModelPath": f"{made.prefix}/models/tiny",
            "dataScript": SCRIPT,
            "bucketDataDir": f"{made.prefix}/datasets",
            "hfTokenSecret": {"name": "hub"},
            "storageQuantity": "1Gi",
            "storageClass": "",
        }
        apply(made, "deliver-huggingface-example-resources/helm/chart", "deliver", deliver)
        jobs.complete("deliver")
        jobs.common |= {
            "basemodel": f"{made.prefix}/models/tiny",
            "finetuning_config.data_conf.training_data.datasets": [{"path": f"{made.prefix}/datasets/chat.jsonl"}],
        }
        few = changed(**{ARGUMENTS + "max_steps": 2, ARGUMENTS + "eval_strategy": "no"})
        jobs.apply("tune", jobs.values(few, "tune", mergeAdapter=True, **{"hfTokenSecret.name": "hub"}))
        jobs.apply("locked-out", jobs.values(few, "locked-out", **{"bucketCredentialsSecret.name": "wrong"}))
        jobs.complete("tune")
        assert jobs.outcome("locked-out")["type"] == "Failed"
        serve = {
            "model": f"s3://{made.prefix}/experiments/tune/checkpoint-final-merged",
            "bucket_storage": {"host": STORE},
            "gpuResource": "",
            "apiKeySecret": {"name": "server"},
            "storage": {"quantity": "1Gi"},
            "vllm_engine_args": {"served_model_name": "tune"},
        }
        if "TUNEYARD_TEST_SERVE_IMAGE" in os.environ:
            serve["image"] = os.environ["TUNEYARD_TEST_SERVE_IMAGE"]
        apply(made, "llm-inference-vllm/helm", "tune", serve)
        until(lambda: answers(made, "llm-inference-vllm-tune"), "a server that answers", every=3.0)
        all_secrets = {**canaries, "the access key": made.keys[0], "the secret key": made.keys[1]}
        yield made, jobs, all_secrets


def answers(made, deployment):
    """Whether the server answers a conversation that is sent with the key, from inside its pod."""
    command = ["kubectl", "exec", "-n", made.namespace, f"deployment/{deployment}", "--", "python", "-c", REQUEST]
    return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.startswith("200")


def apply(made, chart, release, values):
    kubectl("apply", "-n", made.namespace, "-f", "-", given=helm(chart, release, made.namespace, values))


def apply_secret(made, name, texts):
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    # server-side: client-side apply would leave the texts in an annotation, of the Secret itself
    kubectl("apply", "--server-side", "-n", made.namespace, "-f", "-", given=json.dumps(secret))


def start_hub(made, model):
    """Run a Hub with a gated model in a pod, and have the site's settings name it."""
    ports = [{"name": f"p{port}", "port": port} for port in (8000, 8001)]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "hub"},
        "spec": {"selector": {"run": "hub"}, "ports": ports},
    }
    kubectl("apply", "-n", made.namespace, "-f", "-", given=json.dumps(service))
    site = {"data": {"HF_ENDPOINT": f"http://hub.{made.namespace}:8000"}}
    kubectl("patch", "configmap", "tuneyard-site", "-n", made.namespace, "--type=merge", "-p", json.dumps(site))
    env = [
        {"name": "HOST", "value": f"hub.{made.namespace}"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
    ]
    start_python(made, "hub", HUB, env, readinessProbe={"tcpSocket": {"port": 8000}, "periodSeconds": 1})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w|") as archive:
        for module in ("lab/hub_server.py", "lab/web_servers.py"):
            archive.add(Path(__file__).parents[1] / module, module)
        archive.add(model, "model")
        archive.addfile(tarfile.TarInfo("all-here"))
    command = ["kubectl", "exec", "-i", "-n", made.namespace, "hub", "--", "python", "-c", UNPACK]
    subprocess.run(command, input=packed.getvalue(), check=True, timeout=60)
    kubectl("wait", "pod/hub", "-n", made.namespace, "--for=condition=Ready", "--timeout=60s")


@pytest.fixture(scope="module")
def shown(ran):
    """All that can be seen of the namespace and its part of the bucket, by where it is from."""
    made, _, _ = ran
    seen = {f"object of {kind}": body for kind, body in objects(made.namespace).items()}
    pods = json.loads(kubectl("get", "pods", "-n", made.namespace, "-o", "json"))["items"]
    for pod in pods:
        name = pod["metadata"]["name"]
        seen[f"log of {name}"] = kubectl("logs", "-n", made.namespace, name, "--all-containers").encode()
        if pod["status"]["phase"] == "Running":
            program = "import glob; print([open(x).read() for x in glob.glob('/proc/[0-9]*/cmdline')])"
            arguments = kubectl("exec", "-n", made.namespace, name, "--", "python", "-c", program)
            seen[f"arguments of {name}"] = arguments.encode()
    for info in made.store.list(f"{made.prefix}/"):
        seen[f"object {info.key}"] = b"".join(made.store.read(info.key))
    on = ["--on", "kubernetes", "--namespace", made.namespace]
    for words in (["runs"], ["runs", "show", "tune"], ["runs", "show", "locked-out"], ["runs", "show", "deliver"]):
        command = [sys.executable, "-m", "tuneyard", *words, *on, "--json"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        seen[f"tuneyard {' '.join(words)}"] = done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
    return seen


def objects(namespace):
    """Every object of a namespace as YAML, by kind; the Secrets apart."""
    listed = kubectl("api-resources", "--namespaced", "--verbs=list", "-o", "name").split()
    kinds = [kind for kind in listed if kind not in LEFT_OUT]
    return {
        kind: kubectl("get", kind, "-n", namespace, "-o", "yaml", "--show-managed-fields").encode() for kind in kinds
    }


def test_every_visible_place_was_searched(ran, shown):
    made, _, _ = ran
    wheres = "\n".join(shown)
    for where in (
        "object of jobs.batch",
        "object of deployments.apps",
        "object of configmaps",
        "object of events",
        "log of deliver-",
        "log of tune-",
        "log of locked-out-",
        "log of llm-inference-vllm-tune-",
        "arguments of llm-inference-vllm-tune-",
        "tuneyard runs",
        f"object {made.prefix}/experiments/tune/run.json",
        f"object {made.prefix}/experiments/tune/HEAD",
        f"object {made.prefix}/models/tiny/.tuneyard/manifest.json",
        f"object {made.prefix}/datasets/.tuneyard/chat.jsonl.manifest.json",
    ):
        assert where in wheres, where
    assert b"tuneyard.serving" in shown[next(where for where in shown if where.startswith("arguments of llm"))]
    assert b"exit_code" in shown["object of pods"], "termination messages are among it"


def test_no_secret_is_visible_in_the_cluster_the_command_or_the_bucket(ran, shown):
    _, _, all_secrets = ran
    assert find(all_secrets, shown) == []


@pytest.mark.parametrize("encode", [str.encode, lambda text: base64.b64encode(b"user:" + text.encode() + b"@host")])
def test_the_search_finds_each_secret_where_it_is_kept_or_planted(ran, encode):
    made, _, all_secrets = ran
    kept = kubectl("get", "secrets", "-n", made.namespace, "-o", "yaml").encode()
    assert len(find(all_secrets, {"Secrets": kept})) == len(all_secrets) == 6
    planted = "\n".join(encode(text).decode() for text in all_secrets.values())
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "planted"}, "data": {"x": planted}}
    kubectl("apply", "--server-side", "-n", made.namespace, "-f", "-", given=json.dumps(config))
    try:
        assert len(find(all_secrets, objects(made.namespace))) == 6
    finally:
        kubectl("delete", "configmap", "planted", "-n", made.namespace)
