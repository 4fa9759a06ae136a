"""The walkthrough, word for word, on a real cluster: every block of the guide in order, and what each brings about.

Nothing is added to a command. The site's ConfigMap allows the CPU and names an in-cluster server with the Hub's API.
Of k9s only the calls behind its keys are made. What was run and when is written to build/walkthrough.md.
"""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import select
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from lab.cluster.hub import start_hub
from lab.cluster.training_jobs import until
from lab.cluster.workspaces import helm, kubectl, place_of_store, site_authorities
from tuneyard.checkpoints import Experiment
from tuneyard.checkpoints.record import read_record
from tuneyard.store import Store, read_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guides/walkthrough.md"
NAMESPACE = "silo"
RANKS = (4, 6, 8, 10, 12, 16, 20, 24, 32, 64)
SWEEP = [f"tiny-llama-argilla-r-sweep-alpha-{rank}" for rank in RANKS]
FULL, SINGLE = "tiny-llama-argilla-v1", "tiny-llama-argilla-v1-singlegpu"
EXPERIMENTS = "default-bucket/experiments"
MODEL = "default-bucket/models/tiny-llama_tinyllama-1.1b-chat-v1.0"
DATA = "default-bucket/datasets/argilla-mistral-large-human-prompts.jsonl"

DRAWN_BAR = "\r\x1b\\[2K[^\r\n]*━"
"""A line that is erased and redrawn."""


def _blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


SETUP, K9S, DELIVER, LOOP, EIGHT, ONE, DEPLOY, FORWARD, CHAT, STOP = _blocks()


class Shell:
    """One bash that runs block after block, as a person's terminal does, and writes down what happened."""

    def __init__(self, transcript: Path) -> None:
        transcript.parent.mkdir(exist_ok=True)
        self._transcript = transcript
        transcript.write_text("# Transcript of the walkthrough\n\n", encoding="utf-8")
        self._bash = subprocess.Popen(
            ["bash"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, block: str) -> str:
        """Run a block and give what it printed; its last command has to succeed."""
        assert self._bash.stdin
        assert self._bash.stdout
        mark = f"--- {secrets.token_hex(8)} "
        began = time.monotonic()
        self._bash.stdin.write(f"{block}\necho; echo '{mark}'$?\n")
        self._bash.stdin.flush()
        output: list[str] = []
        for line in self._bash.stdout:
            if line.startswith(mark):
                break
            output.append(line)
        text = "".join(output).rstrip("\n")
        self._write(f"```\n$ {block.rstrip()}\n{text}\n```\n{time.monotonic() - began:.1f} s\n")
        assert line == f"{mark}0\n", text
        return text

    def note(self, text: str) -> None:
        """Write a line of what was seen into the transcript."""
        self._write(f"{time.strftime('%H:%M:%S')}: {text}\n")

    def close(self) -> None:
        """End the shell and everything it left running."""
        with self._bash:
            os.killpg(self._bash.pid, signal.SIGTERM)

    def _write(self, text: str) -> None:
        with self._transcript.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def _get(kind: str, name: str = "", namespace: str = NAMESPACE) -> dict:
    return json.loads(kubectl("get", kind, *([name] if name else []), "-n", namespace, "-o", "json"))


def _conditions(thing: dict) -> dict[str, str]:
    return {one["type"]: one["status"] for one in thing.get("status", {}).get("conditions", [])}


def _complete(job: str) -> bool:
    conditions = _conditions(_get("job", job))
    assert conditions.get("Failed") != "True", _logs_of(job)
    return conditions.get("Complete") == "True"


def _logs_of(job: str) -> str:
    command = ["kubectl", "logs", "-n", NAMESPACE, "-l", f"job-name={job}", "--all-containers", "--tail=30"]
    done = subprocess.run([*command, "--ignore-errors"], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def _pods(job: str) -> list[dict]:
    return json.loads(kubectl("get", "pods", "-n", NAMESPACE, "-l", f"job-name={job}", "-o", "json"))["items"]


def _running_pod(job: str) -> str | None:
    running = [pod["metadata"]["name"] for pod in _pods(job) if pod["status"]["phase"] == "Running"]
    return running[0] if running else None


@pytest.fixture(scope="module")
def shell():
    made = Shell(ROOT / "build" / "walkthrough.md")
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory, walkthrough_namespace):
    with place_of_store(walkthrough_namespace, tmp_path_factory.mktemp("store")) as opened:
        yield opened
        ours = (f"{MODEL}/", "default-bucket/datasets/", *(f"{EXPERIMENTS}/{name}/" for name in (*SWEEP, FULL, SINGLE)))
        for prefix in ours:
            opened.delete([info.key for info in opened.list(prefix)])


@pytest.fixture(scope="module")
def walkthrough_namespace(shell, tmp_path_factory):
    if kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "name"):
        pytest.fail(f"the namespace {NAMESPACE} is there already: kubectl delete namespace {NAMESPACE}")
    hub = f"walkthrough-hub-{secrets.token_hex(3)}"
    kubectl("create", "namespace", hub)
    try:
        address = start_hub(hub, tmp_path_factory.mktemp("hub"))
        shell.run(SETUP)
        env = {"TUNEYARD_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "HF_ENDPOINT": address}
        site = {"site": {"setup": True, "env": env, "caCert": site_authorities(NAMESPACE)}}
        kubectl("apply", "-n", NAMESPACE, "-f", "-", given=helm("k8s-namespace-setup/helm", "site", NAMESPACE, site))
        yield NAMESPACE
    finally:
        kubectl("delete", "namespace", NAMESPACE, hub, "--ignore-not-found", "--wait=false")


def _checkpointed(store: Store, names: list[str]) -> str | None:
    """Find a running run that has committed a checkpoint."""
    for name in names:
        if _running_pod(name) and Experiment(store, f"{EXPERIMENTS}/{name}").committed():
            return name
    return None


def test_the_namespace_has_its_queue_and_its_keys(walkthrough_namespace, shell):
    kubectl(
        "wait", "externalsecret/minio-credentials-fetcher", "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"
    )
    assert set(_get("secret", "minio-credentials")["data"]) == {"API_ACCESS_KEY", "API_SECRET_KEY"}
    until(lambda: _conditions(_get("localqueue", "kaiwo")).get("Active") == "True", "the LocalQueue is active")
    shell.note("ExternalSecret synced, LocalQueue active")


def test_eight_of_ten_are_admitted_at_once_and_two_queue(walkthrough_namespace, shell):
    shell.run(DELIVER)
    output = shell.run(LOOP)
    assert len(re.findall(r"^job\.batch/\S+ created$", output, re.MULTILINE)) == len(RANKS)

    def admitted() -> bool:
        workloads = [one for one in _get("workloads")["items"] if "sweep" in one["metadata"]["name"]]
        states = [_conditions(one).get("Admitted") == "True" for one in workloads]
        return (len(states), sum(states)) == (10, 8)

    until(admitted, "eight of ten Workloads are admitted")
    shell.note("8 admitted, 2 queued")


def test_the_model_and_the_data_are_delivered(store, shell):
    until(lambda: _complete("deliver-tiny-llama-and-argilla"), "the delivery is complete")
    model = read_manifest(store, f"{MODEL}/.tuneyard/manifest.json")
    assert not [entry.path for entry in model.files if entry.path.startswith("original/")]
    folder, _, name = DATA.rpartition("/")
    rows = read_manifest(store, f"{folder}/.tuneyard/{name}.manifest.json").about["rows"]
    assert rows == 160
    shell.note(f"delivered: {len(model.files)} files of the model, {rows} rows of data")


def test_a_terminal_shows_the_moving_bar_and_a_shell_opens(store, shell):
    pod = until(lambda: next(filter(None, map(_running_pod, SWEEP)), None), "a training pod runs")
    until(lambda: "step " in kubectl("logs", pod, "-n", NAMESPACE, "--tail=50"), "its log has steps")
    steps: set[str] = set()
    seen = ""
    child, screen = pty.fork()
    if child == 0:
        os.execvp("kubectl", ["kubectl", "attach", "-it", pod, "-n", NAMESPACE])
    try:
        deadline = time.monotonic() + 60
        while len(steps) < 2 and time.monotonic() < deadline:
            if not select.select([screen], [], [], 1.0)[0]:
                continue
            try:
                seen += os.read(screen, 65536).decode(errors="replace")
            except OSError:
                break
            steps = set(re.findall(f"{DRAWN_BAR}.*?step (\\d+) of \\d+", seen))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(screen)
    assert len(steps) >= 2, f"no bar moves: {seen[-2000:]!r}"
    other = until(lambda: next(filter(None, map(_running_pod, SWEEP)), None), "a training pod runs")
    user = kubectl("exec", other, "-n", NAMESPACE, "-c", "finetune", "--", "bash", "-c", "id -u").strip()
    assert user == "1000"
    moved = ", ".join(sorted(steps, key=int)[:2])
    shell.note(f"attached to {pod}: its bar moves (steps {moved}); a shell is user {user}")


def test_killed_and_deleted_runs_resume_and_the_others_are_unchanged(store, shell):
    killed = until(lambda: _checkpointed(store, SWEEP), "a run has a checkpoint")
    kubectl("delete", "pod", str(_running_pod(killed)), "-n", NAMESPACE, "--grace-period=0", "--force")
    others = [name for name in SWEEP if name != killed]
    deleted = until(lambda: _checkpointed(store, others), "another run has a checkpoint")
    kubectl("delete", "job", deleted, "-n", NAMESPACE, "--cascade=foreground", "--wait=true", "--timeout=100s")
    output = shell.run(LOOP)
    created = re.findall(r"^(\S+) created$", output, re.MULTILINE)
    assert created == [f"job.batch/{deleted}"]
    assert len(re.findall(r" unchanged$", output, re.MULTILINE)) == 2 * len(RANKS) - 1
    for name in SWEEP:
        until(lambda name=name: _complete(name), f"{name} is complete", every=2.0)
    for name in (killed, deleted):
        record = read_record(store, f"{EXPERIMENTS}/{name}")
        assert record
        assert (record.attempts[-1].from_step or 0) > 0, f"{name} started over"
    for name in SWEEP:
        assert Experiment(store, f"{EXPERIMENTS}/{name}").finished()
    shell.note(f"{killed} killed and {deleted} deleted: both resumed from their checkpoints; all ten are complete")


def test_applying_the_loop_twice_is_unchanged(walkthrough_namespace, shell):
    output = shell.run(LOOP)
    assert len(re.findall(r" unchanged$", output, re.MULTILINE)) == 2 * len(RANKS)


def test_every_weight_on_eight_accelerators_and_on_one(store, shell):
    shell.run(EIGHT)
    shell.run(ONE.replace("kubectl apply -\n", "kubectl apply -f -\n"))
    for name in (FULL, SINGLE):
        until(lambda name=name: _complete(name), f"{name} is complete", every=2.0)
        assert Experiment(store, f"{EXPERIMENTS}/{name}").finished()
    limits = _get("job", FULL)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["amd.com/gpu"] == "8"
    shell.note("both full-parameter runs are complete")


def test_the_deployment_answers_by_curl(store, shell):
    shell.run(DEPLOY)
    rollout = ["rollout", "status", f"deployment/llm-inference-vllm-{FULL}", "-n", NAMESPACE]
    until(lambda: _rolled_out(rollout), "the server is ready", every=2.0)
    shell.note("the server is ready")
    shell.run(FORWARD)
    until(_port_answers, "the port is forwarded")
    answer = shell.run(CHAT)
    assert answer.strip().splitlines()[-1] not in ("", "null"), answer
    shell.run(STOP)


def test_a_merged_adapter_is_served_by_the_same_commands(store, shell):
    name = SWEEP[2]
    kubectl("delete", "job", name, "-n", NAMESPACE, "--cascade=foreground", "--wait=true", "--timeout=100s")
    merging = re.sub(r"^for .*$", "for r in 8; do", LOOP, flags=re.MULTILINE)
    merging = merging.replace("--namespace", "--set mergeAdapter=true \\\n    --namespace")
    shell.run(merging)
    until(lambda: _complete(name), f"{name} is merged", every=2.0)
    assert Experiment(store, f"{EXPERIMENTS}/{name}").finished("checkpoint-final-merged")
    kubectl("delete", "deployment", f"llm-inference-vllm-{FULL}", "-n", NAMESPACE)
    deploy = DEPLOY.replace(f'name="{FULL}"', f'name="{name}"').replace("checkpoint-final", "checkpoint-final-merged")
    shell.run(deploy)
    rollout = ["rollout", "status", f"deployment/llm-inference-vllm-{name}", "-n", NAMESPACE]
    until(lambda: _rolled_out(rollout), "the merged model is ready", every=2.0)
    shell.run(FORWARD.replace(FULL, name))
    until(_port_answers, "the port is forwarded")
    answer = shell.run(CHAT.replace(FULL, name))
    assert answer.strip().splitlines()[-1] not in ("", "null"), answer
    shell.run(STOP)
    shell.note("the merged adapter answers")


def _rolled_out(command: list[str]) -> bool:
    done = subprocess.run(["kubectl", *command, "--timeout=5s"], capture_output=True, text=True, timeout=60)
    return done.returncode == 0


def _port_answers() -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8080)):
            return False
    with urllib.request.urlopen("http://127.0.0.1:8080/v1/models", timeout=60) as answer:
        return answer.status == 200
