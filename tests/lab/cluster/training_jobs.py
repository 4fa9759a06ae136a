"""Training Jobs on a real cluster: apply the chart, disturb its pods, and read what they published.

Pods are watched from the beginning, since a preempted or evicted pod is deleted moments after it ended, and its exit
code with it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lab.cluster.workspaces import STORE, Workspace, helm, kubectl
from lab.training import changed, published_metrics
from tuneyard.store import Store

CHART = "LLM-finetune-silogen-engine/helm/chart"
CONTAINER = "finetune"
PROGRESS = "/work/progress.json"
INDEX = "batch.kubernetes.io/job-completion-index"
WAIT_SECONDS = 300
"""Only ends a broken test: nothing here asserts how long something takes."""

_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_Found = TypeVar("_Found")


def until(look: Callable[[], _Found | None], what: str, *, every: float = 0.5) -> _Found:
    """Poll until there is a result, and return it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(every)
    raise AssertionError(f"never happened: {what}")


@dataclass(frozen=True)
class End:
    """How a pod's training container ended.

    Attributes:
        pod: The pod's name.
        code: The exit code.
        words: The termination message; an empty mapping where there is none.
        seconds: How long the container ran.
    """

    pod: str
    code: int
    words: dict[str, Any]
    seconds: float


class PodWatch:
    """The last known state of every pod of a namespace, including deleted ones."""

    def __init__(self, namespace: str) -> None:
        self.seen: dict[str, dict[str, Any]] = {}
        self._command = ["kubectl", "get", "pods", "-n", namespace, "--watch", "-o", "json", "--output-watch-events"]
        self._ended = False
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ended = True
        if self._process:
            self._process.terminate()
        self._thread.join(10)

    def of(self, job: str) -> list[dict[str, Any]]:
        """Return the pods of a Job, oldest first."""
        pods = [pod for pod in list(self.seen.values()) if pod["metadata"]["labels"].get("job-name") == job]
        return sorted(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def _watch(self) -> None:
        while not self._ended:  # the server ends a watch every few minutes
            with subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True) as self._process:
                assert self._process.stdout
                for line in self._process.stdout:  # kubectl writes an event a line
                    self._note(json.loads(line)["object"])

    def _note(self, pod: dict[str, Any]) -> None:
        name, known = pod["metadata"]["name"], self.seen.get(pod["metadata"]["name"])
        if known and _terminated(known) and not _terminated(pod):
            return
        self.seen[name] = pod


def _terminated(pod: dict[str, Any]) -> dict[str, Any] | None:
    for status in pod["status"].get("containerStatuses", []):
        if status["name"] == CONTAINER:
            return status["state"].get("terminated")
    return None


def _running(pod: dict[str, Any]) -> bool:
    statuses = pod["status"].get("containerStatuses", [])
    return any(one["name"] == CONTAINER and "running" in one["state"] for one in statuses)


@dataclass
class TrainingJobs:
    """The training Jobs of one namespace.

    Attributes:
        workspace: Where they run.
        common: Values of every Job besides the training's own: the store's address as a pod reaches it.
        folder: For logs.
    """

    workspace: Workspace
    common: dict[str, Any]
    folder: Path
    logs: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    def __post_init__(self) -> None:
        self.watch = PodWatch(self.namespace)

    @property
    def namespace(self) -> str:
        """The namespace that the Jobs run in."""
        return self.workspace.namespace

    @property
    def store(self) -> Store:
        """The bucket as the test process reaches it."""
        return self.workspace.store

    def close(self) -> None:
        """End the processes that follow the Jobs."""
        self.watch.close()
        for follower in self.logs:
            follower.terminate()
            follower.wait()

    # ---- values and Jobs ----

    def remote(self, name: str) -> str:
        """Return where a run publishes."""
        return f"{self.workspace.prefix}/experiments/{name}"

    def place(self, key: str) -> str:
        """Map a key to these tests' part of the bucket."""
        return self.workspace.place(key)

    def values(self, values: dict[str, Any], name: str, **changes: Any) -> dict[str, Any]:
        """Values of a training here: `changes` are dotted paths."""
        own = {"checkpointsRemote": self.remote(name), **self.common, **changes}
        return changed(values, **own)

    def render(self, job: str, values: dict[str, Any]) -> str:
        """Render the chart, as the walkthrough does."""
        return helm(CHART, job, self.namespace, values)

    def apply(self, job: str, values: dict[str, Any]) -> str:
        """Render the chart, apply it, and return the Job's name."""
        kubectl("apply", "-f", "-", given=self.render(job, values))
        return job

    def delete(self, job: str) -> None:
        """Delete a Job and its pods, and wait for their end."""
        kubectl("delete", "job", job, "-n", self.namespace, "--cascade=foreground", "--wait=true")

    def job(self, job: str) -> dict[str, Any]:
        """Return the Job object."""
        return json.loads(kubectl("get", "job", job, "-n", self.namespace, "-o", "json"))

    def job_exists(self, job: str) -> bool:
        """Return whether the Job exists."""
        return bool(kubectl("get", "job", job, "-n", self.namespace, "--ignore-not-found", "-o", "name"))

    def image(self) -> str:
        """The image that the Jobs run."""
        images = {one["image"] for pod in self.watch.seen.values() for one in pod["spec"]["containers"]}
        return min(images)

    def outcome(self, job: str) -> dict[str, Any]:
        """Wait until a Job is complete or failed, and return that condition."""
        return until(lambda: self._outcome(job), f"the end of Job {job}", every=1.0)

    def complete(self, job: str, *, despite: tuple[int, ...] = (143,)) -> None:
        """Wait until a Job is complete; where a pod ends with another code than `despite`, show its output."""

        def look() -> bool:
            for end in self.ends(job):
                assert end.code in (0, *despite), (end, self.output_of(end.pod))
            outcome = self._outcome(job)
            assert outcome is None or outcome["type"] == "Complete", outcome
            return outcome is not None

        until(look, f"the end of Job {job}", every=1.0)

    def _outcome(self, job: str) -> dict[str, Any] | None:
        conditions = self.job(job)["status"].get("conditions", [])
        ends = [one for one in conditions if one["type"] in ("Complete", "Failed") and one["status"] == "True"]
        return ends[0] if ends else None

    # ---- pods ----

    def ends(self, job: str) -> list[End]:
        """Return how the Job's pods have ended so far, oldest first."""
        return [end for pod in self.watch.of(job) if (end := _end(pod))]

    def running(self, job: str, *, besides: tuple[str, ...] = (), index: int | None = None) -> str:
        """Wait for a pod of the Job that runs, of one index where the Job has several, and follow its output."""

        def look() -> str | None:
            pods = [pod for pod in self.watch.of(job) if pod["metadata"]["name"] not in besides]
            if index is not None:
                pods = [pod for pod in pods if pod["metadata"]["labels"].get(INDEX) == str(index)]
            names = [pod["metadata"]["name"] for pod in pods if _running(pod) or _terminated(pod)]
            return names[0] if names else None

        pod = until(look, f"a running pod of {job}", every=0.1)
        self.follow(pod)
        return pod

    def ended(self, pod: str) -> End:
        """Wait until a pod's training container has ended."""
        return until(lambda: _end(self.watch.seen[pod]) if pod in self.watch.seen else None, f"the end of {pod}")

    def follow(self, pod: str) -> None:
        """Record a pod's output, so that it can be read when the pod is gone."""
        target = self._log(pod)
        if not target.exists():
            with target.open("wb") as log:
                command = ["kubectl", "logs", "-n", self.namespace, "-f", pod, "-c", CONTAINER]
                self.logs.append(subprocess.Popen(command, stdout=log, stderr=subprocess.DEVNULL))

    def output_of(self, pod: str) -> str:
        """Return a pod's output without a terminal's colours and redrawn lines."""
        target = self._log(pod)
        raw = (
            target.read_text(encoding="utf-8", errors="replace")
            if target.exists()
            else kubectl("logs", "-n", self.namespace, pod, "-c", CONTAINER)
        )
        return _TERMINAL.sub("", raw).replace("\r", "\n")

    def until_output(self, pod: str, pattern: str) -> re.Match[str]:
        """Wait until the output of a followed pod matches."""
        return until(lambda: re.search(pattern, self.output_of(pod)), f"{pattern!r} in the output of {pod}", every=0.2)

    def until_step(self, pod: str, step: int) -> None:
        """Wait until a pod has completed a step."""

        def look() -> bool:
            assert not _end(self.watch.seen[pod]), f"{pod} ended before step {step}: {self.output_of(pod)}"
            command = [
                "kubectl",
                "exec",
                "-n",
                self.namespace,
                pod,
                "-c",
                CONTAINER,
                "--",
                "cat",
                "/work/progress.json",
            ]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
            try:
                return json.loads(shown.stdout).get("step", 0) >= step
            except ValueError:
                return False

        until(look, f"step {step} of {pod}", every=0.1)

    def evict(self, pod: str) -> None:
        """Evict a pod by the eviction API, as a drain or an autoscaler does."""
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": self.namespace},
        }
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/eviction"
        kubectl("create", "--raw", path, "-f", "-", given=json.dumps(eviction))

    def drain(self, job: str, pod: str) -> None:
        """Drain this Job's pods from the pod's node, and uncordon the node."""
        node = self.watch.seen[pod]["spec"]["nodeName"]
        try:
            selector = f"--pod-selector=job-name={job}"
            kubectl("drain", node, selector, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=60s")
        finally:
            kubectl("uncordon", node)

    def kill_processes(self, pod: str) -> None:
        """Kill every process of a pod but its first, which the kernel protects."""
        program = "import os, signal; os.kill(-1, signal.SIGKILL)"
        command = ["kubectl", "exec", "-n", self.namespace, pod, "-c", CONTAINER, "--", "python", "-c", program]
        subprocess.run(command, capture_output=True, timeout=60)  # ends with an error: it kills its own shell too

    # ---- bucket ----

    def copy(self, source: str, target: str) -> None:
        """Copy a run to another prefix of the bucket."""
        for info in self.store.list(f"{self.remote(source)}/"):
            key = info.key.replace(self.remote(source), self.remote(target), 1)
            self.store.put(key, self.store.get(info.key).body)

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return a run's published rows of metrics without what depends on the clock."""
        return published_metrics(self.store, self.remote(name))

    def losses(self, name: str) -> list[float]:
        """Return the training losses that a run has published, in the order of steps."""
        return [row["loss"] for row in self.metrics(name) if row["kind"] == "train"]

    def checkpoints(self, name: str) -> list[str]:
        """Return the names of a run's committed checkpoints, `checkpoint-<step>-<attempt>`."""
        keys = [info.key for info in self.store.list(f"{self.remote(name)}/")]
        return sorted(key.split("/")[-2] for key in keys if re.search(r"/checkpoint-\d+-\d+/manifest\.json$", key))

    # ----

    def _log(self, pod: str) -> Path:
        return self.folder / f"{pod}.log"


@contextmanager
def training_jobs(workspace: Workspace, folder: Path) -> Iterator[TrainingJobs]:
    """Training Jobs on the CPU in a workspace, with little room each."""
    common: dict[str, Any] = {
        "bucketStorageHost": STORE,
        "gpuResource": "",
        "storageClass": "",
        "downloadsReservedSize": "1Gi",
        "checkpointsReservedSize": "1Gi",
        "env": {"OMP_NUM_THREADS": "1"},
    }
    if "TUNEYARD_TEST_IMAGE" in os.environ:
        common["finetuningImage"] = os.environ["TUNEYARD_TEST_IMAGE"]
    jobs = TrainingJobs(workspace, common, folder)
    try:
        yield jobs
    finally:
        jobs.close()


def _end(pod: dict[str, Any]) -> End | None:
    terminated = _terminated(pod)
    if not terminated:
        return None
    try:
        words = json.loads(terminated.get("message", ""))
    except ValueError:
        words = {}
    moments = [time.mktime(time.strptime(terminated[key], "%Y-%m-%dT%H:%M:%SZ")) for key in ("startedAt", "finishedAt")]
    return End(pod["metadata"]["name"], terminated["exitCode"], words, moments[1] - moments[0])
