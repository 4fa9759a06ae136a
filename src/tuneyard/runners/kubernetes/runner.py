"""Runs on a Kubernetes cluster: a Job for each delivery and finetuning run, a Deployment for each server.

Implements `tuneyard.runners.base.Runner`. helm renders the charts in this package, kubectl writes, lightkube reads. The
runner keeps no state of its own, so every call may come from any machine, and a call that was killed is completed by
repeating it: objects that others refer to are written first, and the worker last.
"""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tuneyard.cluster import (
    STOPPED,
    WORKERS,
    Document,
    PortForward,
    Reader,
    State,
    Tools,
    deployment_state,
    is_active,
    job_state,
    newest_attempt,
    render,
    workload_of,
)
from tuneyard.errors import ConflictError, DeniedError, NotFoundError, UnavailableError, UsageError
from tuneyard.runners.base import STOP_SECONDS, Draft, Launch, Reached, Trained
from tuneyard.runners.differences import differing_values
from tuneyard.runners.info import KINDS, RunInfo, RunKey, RunProgress, Verb
from tuneyard.runners.kubernetes import planning
from tuneyard.runners.kubernetes.info import (
    COMPONENT,
    PART_OF,
    SERVER_PORT,
    env_secrets,
    info_of,
    key_of,
    read_progress,
    resolved,
    run_labels,
    values_name,
)
from tuneyard.runners.kubernetes.logs import PodLogs
from tuneyard.runners.names import check_name

if TYPE_CHECKING:
    from tuneyard.cluster import Finding
    from tuneyard.estimate import Estimate, Verdict

CONVERGE_SECONDS = 660.0
"""How long a launch waits for an earlier run to stop or be deleted: saving may take its whole grace period."""

_POLL_SECONDS = 0.5
_TAIL_LINES = 40
_KINDS = ("configmaps", "services", "secrets", "networkpolicies.networking.k8s.io")
_ROUTES = "httproutes.gateway.networking.k8s.io"


class KubernetesRunner:
    """Runs each launch in a namespace of a cluster.

    Args:
        context: The kubeconfig's context; None for its current one.
        namespace: The namespace; None for the context's own.
    """

    poll_seconds = 2.0

    def __init__(self, context: str | None = None, namespace: str | None = None) -> None:
        self._context, self._namespace = context, namespace
        self._reader = Reader(context, namespace)

    @property
    def options(self) -> str:
        """The options that select this namespace on a command line."""
        named = [("context", self._context), ("namespace", self._namespace)]
        return " --on kubernetes" + "".join(f" --{option} {value}" for option, value in named if value)

    @property
    def own_store(self) -> None:
        """None: a cluster's runs use the store that their values name."""
        return None

    def defaults(self, verb: Verb) -> Mapping[str, Any]:
        """Return a server's API key; see `Runner.defaults`."""
        return planning.defaults(verb)

    def prepare(self, draft: Draft) -> tuple[Launch, tuple[str, ...]]:
        """Use the store that the values configure; see `Runner.prepare`."""
        return planning.prepare(draft), ()

    def check_inputs(self, launch: Launch) -> None:
        """Check nothing: the run itself waits for its inputs; see `Runner.check_inputs`."""

    def find_trained(self, run: str, *, merged: bool, store: str | None) -> Trained:
        """Find a run of this namespace; see `Runner.find_trained`."""
        del store  # `prepare` refuses it
        return planning.find_trained(self, run, merged=merged)

    def preview(self, launch: Launch) -> list[dict[str, Any]]:
        """Render the objects that a launch would write; a server's key is created when it is launched."""
        return render(self._tools, launch.key.verb, check_name(launch.key.name), launch.values_json)

    def estimate(self, launch: Launch, *, store: str | None, inside: bool) -> Estimate:
        """Estimate from here, or in a short-lived pod; see `Runner.estimate`."""
        from tuneyard.runners.kubernetes import forecast

        def from_pod() -> Estimate:
            self._tools.check("kubectl")
            return forecast.estimate_inside(self._tools, self.preview(launch), launch.values_json, launch.store)

        return forecast.estimate(launch, store=store, inside=inside, options=self.options, from_pod=from_pod)

    def judge(self, launch: Launch, estimate: Estimate) -> tuple[Verdict, tuple[Finding, ...]]:
        """Compare with the queue, the namespace's quotas and the nodes; see `Runner.judge`."""
        from tuneyard.runners.kubernetes.forecast import judge

        return judge(self._reader, self.preview(launch), estimate, on_accelerators=launch.on_accelerators)

    def launch(self, launch: Launch) -> RunInfo:
        """Start a run, or join the one with the same values; see `Runner.launch`."""
        self._tools.check("kubectl", "helm")
        objects = self.preview(launch)
        deadline = time.monotonic() + CONVERGE_SECONDS
        while not self._converge(launch, objects):
            if time.monotonic() >= deadline:
                raise UnavailableError(
                    f"The earlier run '{launch.key}' was not deleted within {CONVERGE_SECONDS:g} s.",
                    hint=f"See why: tuneyard runs show {launch.key}{self.options}",
                )
            time.sleep(_POLL_SECONDS)
        self._remove_old_values(launch, objects)
        return self.get(launch.key)

    def list(self, verb: Verb | None = None) -> list[RunInfo]:
        """List the runs, newest launch first."""
        labels = {PART_OF: "tuneyard", **({COMPONENT: verb} if verb else {})}
        owners = [*self._reader.list("Job", labels), *self._reader.list("Deployment", labels)]
        pods, workloads = self._reader.list("Pod", labels), self._reader.workloads()
        values = {config["metadata"]["name"]: config for config in self._reader.list("ConfigMap", labels)}
        found = [self._info(one, pods, values.get(values_name(one)), workloads) for one in owners if key_of(one)]
        if not found:
            self._reader.check_namespace()
        return sorted(found, key=lambda info: info.created_at or datetime.fromtimestamp(0, UTC), reverse=True)

    def get(self, key: RunKey) -> RunInfo:
        """Return the state of one run; see `Runner.get`."""
        return self._read_info(key)

    def values(self, key: RunKey) -> dict[str, Any]:
        """Read the values from the run's ConfigMap; see `Runner.values`."""
        return self._values(key, self._owner(key))

    def logs(self, key: RunKey, *, follow: bool = False, newest: bool = False) -> Iterator[str]:
        """Yield the lines of the run's pods' logs; see `Runner.logs`."""
        owner = self._owner(key)
        self._reader.connect()
        logs = PodLogs(
            self._reader,
            lambda: self._pods(key),
            lambda: self._has_ended(key),
            nodes=owner["spec"].get("completions") or 1,
        )
        return logs.lines(follow=follow, newest=newest)

    def wait(self, key: RunKey, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until the run has ended; see `Runner.wait`."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._read_info(key, progress=False).ended:
            if until is not None and time.monotonic() >= until:
                raise UnavailableError(
                    f"The run '{key}' is still running after {timeout_seconds:g} s.",
                    hint=f"Follow it: tuneyard watch {key}{self.options}",
                )
            time.sleep(_POLL_SECONDS)
        return self.get(key)

    def stop(self, key: RunKey, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Request that the run saves and stops, and wait until it has; see `Runner.stop`."""
        until, killed = time.monotonic() + timeout_seconds, False
        while not (info := self._read_info(key, progress=False)).ended:
            self._request_stop(key)
            if time.monotonic() < until:
                time.sleep(_POLL_SECONDS)
                continue
            if not force or killed:
                raise UnavailableError(
                    f"The run '{key}' has not stopped within {timeout_seconds:g} s: it is still saving, or it hangs.",
                    hint=f"Wait for it: tuneyard watch {key}{self.options}   Or kill it: "
                    f"tuneyard stop {key}{self.options} --force",
                )
            for pod in info.pods:
                words = ["delete", "pod", pod, "--grace-period", "0", "--force", "--ignore-not-found", "--wait=false"]
                self._tools.kubectl(*words)
            killed, until = True, time.monotonic() + STOP_SECONDS
        return self.get(key)

    @contextmanager
    def reach(self, key: RunKey) -> Generator[Reached]:
        """Forward a port of this machine to a server; see `Runner.reach`."""
        if key.verb != "serve":
            raise UsageError(
                f"The run '{key}' is not a server.", hint=f"List them: tuneyard runs{self.options} --verb serve"
            )
        owner = self._owner(key)
        secret = (self._values(key, owner).get("apiKeySecret") or {}) if values_name(owner) else {}
        api_key = ""
        if secret.get("name"):
            data = self._reader.get("Secret", secret["name"]).get("data") or {}
            if secret["key"] not in data:
                raise NotFoundError(
                    f"The Secret '{secret['name']}' has no key '{secret['key']}' with the API key of '{key}'."
                )
            api_key = base64.b64decode(data[secret["key"]]).decode().strip()
        with PortForward(self._tools, owner["metadata"]["name"], SERVER_PORT) as forward:
            yield Reached(f"http://127.0.0.1:{forward.local_port}/v1", api_key)

    def delete_data(self, key: RunKey) -> int:
        """Delete what the run has published, from inside the cluster; see `Runner.delete_data`."""
        from tuneyard.runners.kubernetes.removal import remove_published

        return remove_published(self._reader, self._tools, self.get(key), self._owner(key))

    def delete(self, key: RunKey) -> RunInfo:
        """Delete every object of the run; see `Runner.delete`."""
        info, owner = self._read_info(key, progress=False), self._owner(key)
        if not info.ended and not owner["metadata"].get("deletionTimestamp"):
            raise ConflictError(
                f"The run '{key}' is still running, so it can't be deleted.",
                hint=f"Stop it first: tuneyard stop {key}{self.options}",
            )
        routes = [_ROUTES] if self._has_routes(key) else []
        # The worker is deleted last: as long as it exists, the run is listed and the deletion can be repeated.
        self._tools.delete_labelled([*_KINDS, *routes], run_labels(key))
        self._remove(key, owner, time.monotonic() + CONVERGE_SECONDS)
        return info

    @cached_property
    def _tools(self) -> Tools:
        return Tools(self._context, self._reader.namespace)

    def _converge(self, launch: Launch, objects: list[Document]) -> bool:
        """Take one step towards the launch; return whether it is complete."""
        owner_name = next(one["metadata"]["name"] for one in objects if one["kind"] in WORKERS)
        support = [one for one in objects if one["kind"] not in WORKERS]
        worker = [one for one in objects if one["kind"] in WORKERS]
        owner = self._reader.find(_kind(launch.key.verb), owner_name)
        if owner is not None:
            self._check_same_run(owner, launch.key)
            if owner["metadata"].get("deletionTimestamp"):
                return False
            info = self._read_info(launch.key, progress=False)
            if not info.ended:
                if _stop_requested(owner):
                    self._request_stop(launch.key)
                    return False
                self._join(launch, self._values(launch.key, owner))
                self._make_api_key(launch)
                self._tools.apply(support)
                return True
            if launch.key.verb != "serve" or info.status == "failed":  # a stopped server is scaled up in place
                self._tools.delete_exactly(_path(owner), owner["metadata"]["uid"])
                return False
        self._make_api_key(launch)
        self._tools.apply(support)
        try:
            self._tools.apply(worker)
        except ConflictError:
            return False  # another launch of this name was first
        return True

    def _check_same_run(self, owner: Document, key: RunKey) -> None:
        other = key_of(owner)
        if other == key:
            return
        what = f"of the run '{other}'" if other else "not Tuneyard's"
        raise ConflictError(
            f"The namespace '{self._reader.namespace}' already has a {owner['kind']} '{owner['metadata']['name']}', "
            f"{what}.",
            hint="Use another --name; in a cluster, deliveries and finetuning runs share one set of names.",
        )

    def _join(self, launch: Launch, running: dict[str, Any]) -> None:
        differing = differing_values(running, json.loads(launch.values_json)) if running else []
        if differing:
            raise ConflictError(
                f"The run '{launch.key}' is running with different values: {', '.join(differing)}.",
                hint=f"Stop it with tuneyard stop {launch.key}{self.options}, or use another --name.",
                keys=differing,
            )

    def _make_api_key(self, launch: Launch) -> None:
        """Create the Secret of a server's key, unless it exists or the values name one of the user's."""
        if launch.key.verb != "serve":
            return
        wanted = json.loads(launch.values_json).get("apiKeySecret") or {}
        if wanted.get("name") != planning.api_key_secret(launch.key.name) or self._reader.find(
            "Secret", wanted["name"]
        ):
            return
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": wanted["name"], "labels": run_labels(launch.key)},
            "stringData": {wanted["key"]: secrets.token_urlsafe(24)},
        }
        try:
            self._tools.kubectl("create", "--field-manager", "tuneyard", "-f", "-", stdin=json.dumps(secret))
        except ConflictError:
            return  # another launch created it first

    def _remove_old_values(self, launch: Launch, objects: list[Document]) -> None:
        """Delete the values of earlier launches, which nothing refers to any more."""
        if launch.key.verb == "serve":
            return  # pods of the previous version may still start from them
        wanted = {one["metadata"]["name"] for one in objects if one["kind"] in ("ConfigMap", "Secret")}
        for config in self._reader.list("ConfigMap", run_labels(launch.key)):
            if (name := config["metadata"]["name"]) not in wanted:
                for secret in env_secrets(config) - wanted:
                    self._tools.kubectl("delete", "secret", secret, "--ignore-not-found")
                self._tools.kubectl("delete", "configmap", name, "--ignore-not-found")

    def _request_stop(self, key: RunKey) -> None:
        owner = self._owner(key)
        name, annotations = owner["metadata"]["name"], owner["metadata"].get("annotations") or {}
        if key.verb == "serve":
            if owner["spec"].get("replicas") != 0:
                self._tools.patch("deployment", name, {"spec": {"replicas": 0}})
            return
        if STOPPED not in annotations:
            now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
            self._tools.patch("job", name, {"metadata": {"annotations": {STOPPED: now}}})
        workload = workload_of(owner["metadata"]["uid"], self._reader.workloads())
        if workload is not None:
            # Kueue restarts an admitted Job that it finds suspended, so its Workload is deactivated instead.
            if is_active(workload):
                self._tools.patch("workloads.kueue.x-k8s.io", workload["metadata"]["name"], {"spec": {"active": False}})
        elif not owner["spec"].get("suspend"):
            self._tools.patch("job", name, {"spec": {"suspend": True}})

    def _remove(self, key: RunKey, owner: Document, until: float) -> None:
        uid = owner["metadata"]["uid"]
        self._tools.delete_exactly(_path(owner), uid)
        while (now := self._reader.find(_kind(key.verb), owner["metadata"]["name"])) and now["metadata"]["uid"] == uid:
            if time.monotonic() >= until:
                raise UnavailableError(
                    f"The run '{key}' is not deleted yet.", hint=f"Retry: tuneyard delete {key}{self.options}"
                )
            time.sleep(_POLL_SECONDS)

    def _has_routes(self, key: RunKey) -> bool:
        if key.verb != "serve":
            return False
        group = _ROUTES.partition(".")[2]
        return _ROUTES in self._tools.kubectl("api-resources", "--api-group", group, "-o", "name")

    def _owner(self, key: RunKey) -> Document:
        for owner in self._reader.list(_kind(key.verb), run_labels(key)):
            return owner
        self._reader.check_namespace()
        raise NotFoundError(
            f"There is no {KINDS[key.verb]} named {key.name!r} in the namespace '{self._reader.namespace}'.",
            hint=f"List the runs: tuneyard runs{self.options}",
            name=key.name,
        )

    def _read_info(self, key: RunKey, *, progress: bool = True) -> RunInfo:
        owner = self._owner(key)
        name = values_name(owner)
        config = self._reader.find("ConfigMap", name) if name else None
        return self._info(owner, self._pods(key), config, self._reader.workloads(), progress=progress)

    def _has_ended(self, key: RunKey) -> bool:
        try:
            return self._read_info(key, progress=False).ended
        except NotFoundError:
            return True  # deleted meanwhile

    def _pods(self, key: RunKey) -> list[Document]:
        return self._reader.list("Pod", run_labels(key))

    def _values(self, key: RunKey, owner: Document) -> dict[str, Any]:
        name = values_name(owner)
        return resolved(key.verb, self._reader.find("ConfigMap", name) if name else None)

    def _info(
        self,
        owner: Document,
        pods: list[Document],
        config: Document | None,
        workloads: list[Document],
        *,
        progress: bool = True,
    ) -> RunInfo:
        key = key_of(owner)
        assert key is not None
        uid = owner["metadata"]["uid"]
        if key.verb == "serve":
            own = [pod for pod in pods if key_of(pod) == key]
            state = deployment_state(owner, own, workloads=workloads, events_of=self._events)
        else:
            own = [
                pod for pod in pods if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences") or [])
            ]
            state = job_state(owner, own, workloads=workloads, events_of=self._events, node_of=self._node)
        far = self._progress(state, own) if progress and key.verb == "finetune" else None
        values = resolved(key.verb, config)
        info = info_of(owner, state, values, far)
        if info.ended and info.status != "succeeded" and not info.hint:
            return replace(info, hint=f"See its log: tuneyard logs {key}{self.options}")
        return info

    def _events(self, owner: Document) -> list[Document]:
        events = self._reader.events(owner["metadata"]["uid"])
        for name in _claims(owner) if owner["kind"] == "Pod" else []:
            if claim := self._reader.find("PersistentVolumeClaim", name):
                events = [*events, *self._reader.events(claim["metadata"]["uid"])]
        return events

    def _node(self, pod: Document) -> Document | None:
        name = pod["spec"].get("nodeName")
        try:
            return self._reader.find("Node", name) if name else None
        except DeniedError:
            return None

    def _progress(self, state: State, pods: list[Document]) -> RunProgress | None:
        if state.phase == "queued" or not pods:
            return None
        pod = newest_attempt(pods)[0]
        try:
            lines = self._reader.log(pod["metadata"]["name"], "finetune", tail_lines=_TAIL_LINES)
            return read_progress(lines)
        except (NotFoundError, UnavailableError):
            return None


def _kind(verb: Verb) -> str:
    return "Deployment" if verb == "serve" else "Job"


def _path(owner: Document) -> str:
    group, plural = ("apps", "deployments") if owner["kind"] == "Deployment" else ("batch", "jobs")
    return f"/apis/{group}/v1/namespaces/{owner['metadata']['namespace']}/{plural}/{owner['metadata']['name']}"


def _stop_requested(owner: Document) -> bool:
    if owner["kind"] == "Deployment":
        return owner["spec"].get("replicas") == 0
    return STOPPED in (owner["metadata"].get("annotations") or {})


def _claims(pod: Document) -> list[str]:
    volumes = pod["spec"].get("volumes") or []
    named = [one["persistentVolumeClaim"]["claimName"] for one in volumes if one.get("persistentVolumeClaim")]
    return named + [f"{pod['metadata']['name']}-{one['name']}" for one in volumes if one.get("ephemeral")]
