"""Servers on a real cluster with real vLLM: verified before loaded, nobody without the key, updated without a failed
request, and no more of the pod writable than they need.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys

import pytest

from lab import serving
from lab.cluster.python_pods import start_python
from lab.cluster.training_jobs import until
from lab.cluster.workspaces import STORE, helm, kubectl, workspace

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAME = "tune"
TAMPERED = "default-bucket/experiments/tampered/checkpoint-final"
PATHS = (
    "/",
    "/health",
    "/ping",
    "/metrics",
    "/version",
    "/docs",
    "/openapi.json",
    "/tokenize",
    "/invocations",
    "/v1/models",
    "/v1/chat/completions",
    "/v1/load_lora_adapter",
    "/nowhere",
)

CLIENTS = """
import http.client, json, os, socket, threading, time
def address(host):  # resolved once: the cluster's DNS is not what is tested
    for _ in range(60):
        try:
            return socket.gethostbyname(host)
        except OSError:
            time.sleep(1)
host = address(os.environ["HOST"])
headers = {"Authorization": "Bearer " + os.environ["KEY"], "Content-Type": "application/json"}
body = {"model": "tune", "messages": [{"role": "user", "content": "What is a yard?"}], "temperature": 0}
body |= {"ignore_eos": True, "logprobs": True}
def note(**row):
    os.write(1, json.dumps(row).encode() + b"\\n")  # a line at once: threads share it
def send(connection, more):
    began = time.time()
    connection.request("POST", "/v1/chat/completions", json.dumps({**body, **more}), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {text}")
    return began, text
def sure(choice):
    # The probability of the first token identifies the model.
    return round(choice["logprobs"]["content"][0]["logprob"], 3)
def alone(name):
    connection = http.client.HTTPConnection(host, 8080, timeout=240)
    began, text = send(connection, {"max_tokens": 8})
    connection.close()
    note(client=name, began=began, ended=time.time(), model=sure(json.loads(text)["choices"][0]))
def streamed(name):
    connection = http.client.HTTPConnection(host, 8080, timeout=240)
    began, text = send(connection, {"stream": True, "max_tokens": 1500})
    connection.close()
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    if events[-1] != "[DONE]":
        raise RuntimeError(f"a stream without its end: {events[-1:]}")
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    if choices[-1]["finish_reason"] != "length":
        raise RuntimeError(f"a stream that ended early: {choices[-1]}")
    first = next(choice for choice in choices if choice.get("logprobs"))
    note(client=name, began=began, ended=time.time(), model=sure(first))
def go_on(work, name):
    while True:
        try:
            work(name)
        except Exception as error:
            note(client=name, failed=repr(error))
        time.sleep(1)
for name in os.environ["CLIENTS"].split():
    threading.Thread(target=go_on, args=(alone if name == "alone" else streamed, name)).start()
"""

# So many that streams last: one of them has to be active when the old server receives SIGTERM.
CLIENT_NAMES = ("alone", *(f"stream-{number}" for number in range(10)))
WRITABLE = """
import json, os, tempfile
found = []
for folder, folders, _ in os.walk("/"):
    if folder.startswith(("/proc", "/sys")):
        folders.clear()
        continue
    try:
        with tempfile.TemporaryFile(dir=folder):
            found.append(folder)
            folders.clear()
    except OSError:
        pass
print(json.dumps({"user": os.getuid(), "group": os.getgid(), "writable": sorted(found)}))
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A namespace with the models in its bucket and the server's key in a Secret; with the key."""
    folder = tmp_path_factory.mktemp("serving")
    serving.put_models(folder / "store", folder / "beside", hidden=256)  # vLLM's CPU kernels want heads of 64
    with workspace("tuneyard-serving", folder) as made:
        made.upload(folder / "store")
        weights = f"{serving.FULL}/model.safetensors"
        for info in list(made.store.list(f"{made.place(serving.FULL)}/")):
            body = made.store.get(info.key).body
            if info.key == made.place(weights):
                body = body[:-1] + bytes([body[-1] ^ 1])
            made.store.put(info.key.replace(made.place(serving.FULL), made.place(TAMPERED), 1), body)
        key = secrets.token_urlsafe(16)
        data = {"api-key": base64.b64encode(key.encode()).decode()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "server"}, "data": data}
        kubectl("apply", "--server-side", "-n", made.namespace, "-f", "-", given=json.dumps(secret))
        yield made, key


def deploy(made, name, model, **flags):
    """Apply the chart with the name that all of this file's clients request."""
    values = {
        "model": f"s3://{made.place(model)}",
        "bucket_storage": {"host": STORE},
        "apiKeySecret": {"name": "server"},
        "storage": {"quantity": "1Gi"},
        # vLLM pins the threads of every server of a node to the same core.
        "env_vars": {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        "vllm_engine_args": {
            "served_model_name": NAME,
            "dtype": "float32",
            "max_model_len": 1600,
            "max_num_seqs": 16,
            **flags,
        },
    }
    if "TUNEYARD_TEST_SERVE_IMAGE" in os.environ:
        values["image"] = os.environ["TUNEYARD_TEST_SERVE_IMAGE"]
    rendered = helm("llm-inference-vllm/helm", name, made.namespace, values)
    kubectl("apply", "-n", made.namespace, "-f", "-", given=rendered)
    return f"llm-inference-vllm-{name}"


def rolled_out(made, deployment):
    """Wait until a Deployment's newest pods are ready and the others gone."""
    command = ["kubectl", "rollout", "status", "-n", made.namespace, f"deployment/{deployment}", "--timeout=600s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=620)
    assert done.returncode == 0, done.stdout + done.stderr


def pods(made, deployment):
    chosen = ["-l", f"app.kubernetes.io/instance={deployment.removeprefix('llm-inference-vllm-')}"]
    return json.loads(kubectl("get", "pods", "-n", made.namespace, *chosen, "-o", "json"))["items"]


@pytest.fixture(scope="module")
def served(room):
    made, _ = room
    deployment = deploy(made, "tune", serving.FULL)
    rolled_out(made, deployment)
    return deployment


def inside(made, deployment, program, *arguments):
    """Run a Python program in the server's pod, and give what it prints as JSON."""
    return json.loads(
        kubectl("exec", "-n", made.namespace, f"deployment/{deployment}", "--", "python", "-c", program, *arguments)
    )


def test_a_changed_byte_of_the_weights_is_detected_before_loading(room):
    made, _ = room
    deployment = deploy(made, "tampered", TAMPERED)

    def ended():
        for pod in pods(made, deployment):
            for status in pod["status"].get("containerStatuses", []):
                assert not status["ready"]
                for state in (status["state"], status["lastState"]):
                    if "terminated" in state:
                        return pod["metadata"]["name"], state["terminated"]
        return None

    pod, state = until(ended, "the end of a server with changed weights")
    assert state["exitCode"] == 7, state
    words = json.loads(state["message"])
    assert "model.safetensors" in words["error"]
    log = kubectl("logs", "-n", made.namespace, pod)
    assert "model.safetensors" in log
    assert "vllm" not in log.lower(), log
    kubectl("delete", "deployment", deployment, "-n", made.namespace)


def test_a_server_that_cannot_start_fails_immediately_and_is_recreated_on_launch(room):
    made, _ = room
    command = [sys.executable, "-m", "tuneyard", "serve", "--name", "broken"]
    sets = {"model": f"s3://{made.place('default-bucket/nothing')}", "bucket_storage.host": STORE, "gpuResource": ""}
    sets["storage.quantity"] = "1Gi"
    command += [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    command += ["--on", "kubernetes", "--namespace", made.namespace]
    uids = set()
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 4, done.stderr
        assert "default-bucket" in done.stderr and "nothing" in done.stderr
        deployment = kubectl("get", "deployment", "llm-inference-vllm-broken", "-n", made.namespace, "-o", "json")
        uids.add(json.loads(deployment)["metadata"]["uid"])
    assert len(uids) == 2
    kubectl("delete", "deployment", "llm-inference-vllm-broken", "-n", made.namespace)


def test_no_request_is_answered_without_the_key(room, served):
    made, key = room
    program = """
import http.client, json, os, sys
key = "Bearer " + os.environ["TUNEYARD_API_KEY"]
def request(method, path, given):
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=60)
    connection.request(method, path, b"{}", {"Authorization": given} if given else {})
    answer = connection.getresponse()
    status, text = answer.status, answer.read()
    connection.close()
    return status, text
answers = {}
for path in sys.argv[1:]:
    for method in ("GET", "POST", "OPTIONS"):
        for given in (None, "Bearer wrong", "Basic " + os.environ["TUNEYARD_API_KEY"]):
            answers[f"{method} {path} {str(given)[:6]}"] = request(method, path, given)[0]
print(json.dumps([answers, json.loads(request("GET", "/v1/models", key)[1])]))
"""
    log = kubectl("logs", "-n", made.namespace, f"deployment/{served}")
    routes = {re.sub("{.*?}", "x", path) for path in re.findall(r"Route: (\S+), Methods", log)}
    assert "/v1/chat/completions" in routes
    paths = {*PATHS, *routes}
    answers, models = inside(made, served, program, *paths)
    assert len(answers) == 9 * len(paths)
    assert {where: status for where, status in answers.items() if status != 401} == {}
    assert [model["id"] for model in models["data"]] == [NAME]
    log = kubectl("logs", "-n", made.namespace, f"deployment/{served}")
    assert key not in log


def test_the_server_is_unprivileged_and_writes_to_its_volumes_only(room, served):
    made, _ = room
    found = inside(made, served, WRITABLE)
    # /dev/mqueue and the like belong to the container's runtime, not to the image.
    writable = [folder for folder in found["writable"] if not folder.startswith("/dev/") or folder == "/dev/shm"]
    assert (found["user"], found["group"]) == (1000, 1000)
    assert writable == ["/dev/shm", "/tmp", "/work"]


def test_an_update_to_another_model_fails_no_request_and_interrupts_no_stream(room, served, tmp_path):
    made, _ = room
    env = [
        {"name": "HOST", "value": served},
        {"name": "CLIENTS", "value": " ".join(CLIENT_NAMES)},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "server", "key": "api-key"}}},
    ]
    [old] = [pod["metadata"]["name"] for pod in pods(made, served)]
    start_python(made, "clients", CLIENTS, env)

    def rows(client):
        found = [json.loads(line) for line in kubectl("logs", "-n", made.namespace, "clients").splitlines()]
        return [row for row in found if row["client"] == client]

    def answered(times):
        return all(len(rows(client)) >= times[client] for client in CLIENT_NAMES)

    until(lambda: answered(dict.fromkeys(CLIENT_NAMES, 1)), "an answer for each client", every=2.0)
    with (tmp_path / "old.log").open("wb") as log:
        follow = ["kubectl", "logs", "-f", "-n", made.namespace, old]
        with subprocess.Popen(follow, stdout=log, stderr=subprocess.STDOUT) as follower:
            deploy(made, "tune", serving.BASE)
            rolled_out(made, served)
            kubectl("wait", f"pod/{old}", "-n", made.namespace, "--for=delete", "--timeout=110s")
            follower.wait(60)  # it ends with the pod
    enough = {client: len(rows(client)) + 2 for client in CLIENT_NAMES}
    until(lambda: answered(enough), "the new server's answers", every=2.0)
    old_log = (tmp_path / "old.log").read_text(encoding="utf-8", errors="replace")
    for client in CLIENT_NAMES:
        answers = rows(client)
        assert [row for row in answers if "failed" in row] == [], old_log[-6000:]
        models = [row["model"] for row in answers]
        assert len(set(models)) == 2, f"{client} was answered by one model, or by more than two: {set(models)}"
        assert models[0] != models[-1]
    assert "draining in-flight requests" in old_log, old_log[-6000:]
