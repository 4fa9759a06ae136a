"""Positions in a queue, and the state of a Job with its pods."""

from __future__ import annotations

import pytest

from tuneyard.cluster.jobs import STOPPED, deployment_state, job_state
from tuneyard.cluster.queues import evictions, position, waiting_in_queue

UID = "job-1"


def workload(name, *, uid=UID, priority=0, made="2026-01-01T00:00:00Z", active=True, queue="q", conditions=()):
    return {
        "metadata": {"name": name, "creationTimestamp": made, "ownerReferences": [{"uid": uid}]},
        "spec": {"queueName": queue, "priority": priority, "active": active},
        "status": {"conditions": list(conditions)},
    }


def condition(kind, status, reason="", message=""):
    return {"type": kind, "status": status, "reason": reason, "message": message}


def job(*, conditions=(), suspend=False, annotations=None, **status):
    return {
        "kind": "Job",
        "metadata": {"name": "lora", "uid": UID, "annotations": annotations or {}, "labels": {}},
        "spec": {"suspend": suspend, "completions": 1},
        "status": {"conditions": list(conditions), **status},
    }


def pod(name, *, phase="Running", code=None, index=None, made="2026-01-01T00:00:00Z", conditions=()):
    state = {"running": {"startedAt": made}} if code is None else {"terminated": {"exitCode": code, "startedAt": made}}
    annotations = {} if index is None else {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "metadata": {"name": name, "creationTimestamp": made, "annotations": annotations, "uid": name},
        "spec": {"containers": [{"name": "finetune", "image": "i"}]},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [{"name": "finetune", "state": state, "restartCount": 0}],
        },
    }


def state_of(given, pods=(), workloads=(), events=()):
    return job_state(given, pods, workloads=workloads, events_of=lambda _: events, node_of=lambda _: None)


def test_the_position_in_a_queue_is_by_priority_then_age():
    late = workload("late", made="2026-01-02T00:00:00Z")
    high = workload("high", made="2026-01-03T00:00:00Z", priority=10)
    early = workload("early")
    admitted = workload("admitted", conditions=[condition("QuotaReserved", "True"), condition("Admitted", "True")])
    every = [late, high, early, admitted, workload("other", queue="z"), workload("off", active=False)]
    assert [position(one, every) for one in (high, early, late)] == [(1, 3), (2, 3), (3, 3)]
    assert waiting_in_queue(admitted, every) is None


@pytest.mark.parametrize(
    ("reason", "message", "why"),
    [
        ("Inadmissible", "LocalQueue q doesn't exist", "LocalQueue 'q' does not exist"),
        ("Inadmissible", "ClusterQueue c is inactive", "ClusterQueue 'c' is inactive"),
        (
            "Pending",
            "couldn't assign flavors: insufficient unused quota for amd.com/gpu in flavor d, 1 more needed",
            "queued in 'q', position 1 of 1: insufficient free quota for amd.com/gpu",
        ),
        (
            "Pending",
            "couldn't assign flavors to pod set main: insufficient quota for amd.com/gpu in flavor d, previously "
            "considered podsets requests (0) + current podset request (9) > maximum capacity (8)",
            "the request of 9 amd.com/gpu exceeds the quota of queue 'q': 8",
        ),
    ],
)
def test_a_condition_of_kueue_is_explained_and_kept_as_the_event(reason, message, why):
    one = workload("one", conditions=[condition("QuotaReserved", "False", reason, message)])
    waits = waiting_in_queue(one, [one])
    assert waits is not None
    assert (waits.why, waits.event) == (why, f"{reason}: {message}")


def test_a_preempted_run_reports_it_and_counts_its_attempts():
    one = workload("one", conditions=[condition("Evicted", "True", "Preempted"), condition("QuotaReserved", "False")])
    one["status"]["schedulingStats"] = {"evictions": [{"reason": "Preempted", "count": 2}]}
    state = state_of(job(suspend=True), workloads=[one])
    assert state.phase == "queued"
    assert state.why == "preempted by a Workload with a higher priority; queued in 'q', position 1 of 1"
    assert state.attempts == evictions(one) == 2


def test_a_job_with_a_stop_request_saves_and_is_stopped():
    annotations = {STOPPED: "2026-01-01T00:00:00Z"}
    assert state_of(job(annotations=annotations, suspend=True), [pod("p")]).phase == "running"
    assert state_of(job(annotations=annotations, suspend=True)).phase == "stopped"


def test_a_stopped_job_that_completed_has_succeeded():
    ended = job(conditions=[condition("Complete", "True")], annotations={STOPPED: "x"}, succeeded=1)
    assert state_of(ended, [pod("p", phase="Succeeded", code=0)]).phase == "succeeded"


def test_of_several_nodes_the_root_failure_is_reported():
    pods = [pod("a", phase="Failed", code=8, index=0), pod("b", phase="Failed", code=3, index=1)]
    state = state_of(job(conditions=[condition("Failed", "True", "PodFailurePolicy", "m")], failed=2), pods)
    assert (state.phase, state.exit_code, state.pods) == ("failed", 3, ("a", "b"))


def test_a_failed_job_without_pods_still_has_its_exit_code():
    message = "Container finetune for pod ns/lora-x failed with exit code 3 matching FailJob rule at index 0"
    state = state_of(job(conditions=[condition("Failed", "True", "PodFailurePolicy", message)], failed=1))
    assert (state.phase, state.exit_code, state.error) == ("failed", 3, message)


def test_between_attempts_the_last_termination_is_reported():
    disrupted = condition("DisruptionTarget", "True", "EvictionByEvictionAPI")
    state = state_of(job(), [pod("a", phase="Failed", code=143, conditions=[disrupted])])
    assert (state.phase, state.why) == ("queued", "evicted through the API, such as by a node drain; retrying")


def test_an_exhausted_quota_is_named():
    message = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
    state = state_of(job(), events=[{"reason": "FailedCreate", "message": message}])
    assert state.why == "the namespace's quota 'small' is exhausted (requested: pods=1)"


@pytest.mark.parametrize(
    ("replicas", "available", "pods", "phase", "why"),
    [
        (1, 1, [pod("p")], "running", ""),
        (1, 0, [pod("p")], "running", "loading the model"),
        (0, 0, [], "stopped", "stopped on request"),
        (0, 0, [pod("p")], "running", "finishing open requests and stopping"),
        (1, 0, [], "queued", "the pod is being created"),
        (1, 0, [pod("p", code=5)], "failed", "exited with code 5"),
    ],
)
def test_the_state_of_a_server(replicas, available, pods, phase, why):
    deployment = {"metadata": {}, "spec": {"replicas": replicas}, "status": {"availableReplicas": available}}
    state = deployment_state(deployment, pods, workloads=[], events_of=lambda _: [])
    assert (state.phase, state.why) == (phase, why)


@pytest.mark.parametrize(
    ("code", "restarts", "phase", "why"),
    [
        (8, 0, "failed", "exited with code 8"),
        (1, 0, "queued", "restarting after exit code 1"),
        (1, 2, "queued", "restarting after exit code 1"),
        (1, 3, "failed", "exited with code 1 after 3 restarts"),
        (137, 4, "failed", "exited with code 137 after 4 restarts"),
    ],
)
def test_a_server_that_keeps_restarting_has_failed(code, restarts, phase, why):
    ended = pod("p", phase="Running")
    crash_loop = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": code}}
    status = {"name": "serve", "state": crash_loop, "lastState": last, "restartCount": restarts}
    ended["status"]["containerStatuses"] = [status]
    deployment = {"metadata": {}, "spec": {"replicas": 1}, "status": {}}
    state = deployment_state(deployment, [ended], workloads=[], events_of=lambda _: [])
    assert (state.phase, state.why.partition(":")[0]) == (phase, why)


def test_a_restarting_server_reports_the_error_of_its_last_termination():
    restarting = pod("p", phase="Running")
    status = {
        "name": "serve",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "message": "error: out of memory\n"}},
        "restartCount": 1,
    }
    restarting["status"]["containerStatuses"] = [status]
    deployment = {"metadata": {}, "spec": {"replicas": 1}, "status": {}}
    state = deployment_state(deployment, [restarting], workloads=[], events_of=lambda _: [])
    assert (state.phase, state.why) == ("queued", "restarting after exit code 1: out of memory")


def test_a_started_server_has_not_failed_when_it_stops_responding():
    pod_ = pod("p", phase="Running")
    status = {
        "name": "serve",
        "started": True,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        "lastState": {"terminated": {"exitCode": 4}},
        "restartCount": 5,
    }
    pod_["status"]["containerStatuses"] = [status]
    deployment = {"metadata": {}, "spec": {"replicas": 1}, "status": {}}
    state = deployment_state(deployment, [pod_], workloads=[], events_of=lambda _: [])
    assert (state.phase, state.why) == ("running", "not responding at the moment")
