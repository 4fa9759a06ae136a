"""Places in a queue, and a Job with its pods read as one state."""

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


def test_the_place_in_a_queue_is_counted_by_priority_then_age():
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
        ("Inadmissible", "LocalQueue q doesn't exist", "the LocalQueue q is missing"),
        ("Inadmissible", "ClusterQueue c is inactive", "the ClusterQueue c is inactive"),
        (
            "Pending",
            "couldn't assign flavors: insufficient unused quota for amd.com/gpu in flavor d, 1 more needed",
            "queued in q, position 1 of 1: no quota of amd.com/gpu is free",
        ),
        (
            "Pending",
            "couldn't assign flavors to pod set main: insufficient quota for amd.com/gpu in flavor d, previously "
            "considered podsets requests (0) + current podset request (9) > maximum capacity (8)",
            "the queue q never has 9 amd.com/gpu: its quota is 8",
        ),
    ],
)
def test_what_kueue_says_is_told_in_words_with_its_own_beside_them(reason, message, why):
    one = workload("one", conditions=[condition("QuotaReserved", "False", reason, message)])
    told = waiting_in_queue(one, [one])
    assert told is not None
    assert (told.why, told.event) == (why, f"{reason}: {message}")


def test_a_preempted_run_says_so_and_counts_its_attempts():
    one = workload("one", conditions=[condition("Evicted", "True", "Preempted"), condition("QuotaReserved", "False")])
    one["status"]["schedulingStats"] = {"evictions": [{"reason": "Preempted", "count": 2}]}
    state = state_of(job(suspend=True), workloads=[one])
    assert state.phase == "queued"
    assert state.why == "it was preempted by one of higher priority; queued in q, position 1 of 1"
    assert state.attempts == evictions(one) == 2


def test_a_job_that_was_told_to_stop_saves_and_is_stopped():
    told = {STOPPED: "2026-01-01T00:00:00Z"}
    assert state_of(job(annotations=told, suspend=True), [pod("p")]).phase == "running"
    assert state_of(job(annotations=told, suspend=True)).phase == "stopped"


def test_a_stopped_job_that_finished_all_the_same_has_succeeded():
    ended = job(conditions=[condition("Complete", "True")], annotations={STOPPED: "x"}, succeeded=1)
    assert state_of(ended, [pod("p", phase="Succeeded", code=0)]).phase == "succeeded"


def test_of_several_nodes_the_one_that_failed_first_is_told_of():
    pods = [pod("a", phase="Failed", code=8, index=0), pod("b", phase="Failed", code=3, index=1)]
    state = state_of(job(conditions=[condition("Failed", "True", "PodFailurePolicy", "m")], failed=2), pods)
    assert (state.phase, state.exit_code, state.pods) == ("failed", 3, ("a", "b"))


def test_a_failed_job_whose_pods_are_gone_still_knows_its_exit_code():
    message = "Container finetune for pod ns/lora-x failed with exit code 3 matching FailJob rule at index 0"
    state = state_of(job(conditions=[condition("Failed", "True", "PodFailurePolicy", message)], failed=1))
    assert (state.phase, state.exit_code, state.error) == ("failed", 3, message)


def test_between_attempts_the_last_end_is_told():
    disrupted = condition("DisruptionTarget", "True", "EvictionByEvictionAPI")
    state = state_of(job(), [pod("a", phase="Failed", code=143, conditions=[disrupted])])
    assert (state.phase, state.why) == ("queued", "it was evicted, as for a drained node; another attempt follows")


def test_pods_that_may_not_be_made_name_the_quota():
    message = 'pods "x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
    state = state_of(job(), events=[{"reason": "FailedCreate", "message": message}])
    assert state.why == "the namespace's quota small is used up (pods=1 more asked for)"


@pytest.mark.parametrize(
    ("replicas", "available", "pods", "phase", "why"),
    [
        (1, 1, [pod("p")], "running", ""),
        (1, 0, [pod("p")], "running", "loading the model"),
        (0, 0, [], "stopped", "it was told to stop"),
        (0, 0, [pod("p")], "running", "it ends its answers and stops"),
        (1, 0, [], "queued", "its pod is being made"),
        (1, 0, [pod("p", code=5)], "failed", "it ended with exit code 5"),
    ],
)
def test_a_server_s_state(replicas, available, pods, phase, why):
    deployment = {"metadata": {}, "spec": {"replicas": replicas}, "status": {"availableReplicas": available}}
    state = deployment_state(deployment, pods, workloads=[], events_of=lambda _: [])
    assert (state.phase, state.why) == (phase, why)


@pytest.mark.parametrize(
    ("code", "restarts", "phase", "why"),
    [
        (8, 0, "failed", "it ended with exit code 8"),
        (1, 0, "queued", "it ended with exit code 1 and will be started again"),
        (1, 2, "queued", "it ended with exit code 1 and will be started again"),
        (1, 3, "failed", "it ended with exit code 1, for the 3. time"),
        (137, 4, "failed", "it ended with exit code 137, for the 4. time"),
    ],
)
def test_a_server_that_ends_again_and_again_has_failed(code, restarts, phase, why):
    ended = pod("p", phase="Running")
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"exitCode": code}}
    status = {"name": "serve", "state": state, "lastState": last, "restartCount": restarts}
    ended["status"]["containerStatuses"] = [status]
    deployment = {"metadata": {}, "spec": {"replicas": 1}, "status": {}}
    told = deployment_state(deployment, [ended], workloads=[], events_of=lambda _: [])
    assert (told.phase, told.why.partition(":")[0]) == (phase, why)


def test_a_server_that_came_up_after_all_has_not_failed_when_it_is_slow_to_answer():
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
    told = deployment_state(deployment, [pod_], workloads=[], events_of=lambda _: [])
    assert (told.phase, told.why) == ("running", "it does not answer at the moment")
