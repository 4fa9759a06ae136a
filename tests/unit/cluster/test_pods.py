"""What pods wait for, and how they terminated, from documents of a real cluster."""

from __future__ import annotations

import json

import pytest

from tuneyard.cluster.pods import lost_node, parse_termination_message, termination_of, waiting_for


def pod(*, state=None, conditions=(), phase="Pending", last=None, init=(), reason=None):
    status = {"name": "finetune", "state": state or {}, "lastState": last or {}, "restartCount": 0}
    return {
        "metadata": {"name": "lora-x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "finetune", "image": "here/train:1"}]},
        "status": {
            "phase": phase,
            "reason": reason,
            "conditions": list(conditions),
            "containerStatuses": [status] if state is not None else [],
            "initContainerStatuses": list(init),
        },
    }


def waiting(reason, message=""):
    return pod(state={"waiting": {"reason": reason, "message": message}})


def unscheduled(message, reason="Unschedulable"):
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}])


def event(reason, message):
    return {"type": "Warning", "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("given", "events", "why"),
    [
        (waiting("ImagePullBackOff", "Back-off pulling"), [], "the image 'here/train:1' can't be pulled"),
        (waiting("ErrImageNeverPull", "not present"), [], "the image 'here/train:1' can't be pulled"),
        (waiting("CreateContainerConfigError", 'secret "keys" not found'), [], "the Secret 'keys' does not exist"),
        (waiting("CreateContainerConfigError", 'configmap "v" not found'), [], "the ConfigMap 'v' does not exist"),
        (
            waiting("CreateContainerConfigError", "couldn't find key A in Secret ns/keys"),
            [],
            "the Secret 'keys' has no key 'A'",
        ),
        (
            waiting("ContainerCreating"),
            [event("FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "ca" not found')],
            "the ConfigMap 'ca' does not exist",
        ),
        (
            waiting("ContainerCreating"),
            [event("FailedAttachVolume", "the disk is elsewhere")],
            "the volume can't be mounted: the disk is elsewhere",
        ),
        (waiting("ContainerCreating"), [], "the pod is starting"),
        (
            unscheduled("0/3 nodes are available: 3 Insufficient amd.com/gpu. preemption: 0/3 nodes are available."),
            [],
            "no node has enough free amd.com/gpu",
        ),
        (
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            [event("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')],
            "the volume is not bound: storage class 'fast' does not exist",
        ),
        (
            unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a: }. preemption: nothing."),
            [],
            "no node is suitable: 1 node(s) had untolerated taint {a: }",
        ),
        (unscheduled("gated", "SchedulingGated"), [], "waiting for admission by the queue"),
    ],
)
def test_the_reason_a_pod_waits_is_reported(given, events, why):
    waits = waiting_for(given, events)
    assert waits is not None
    assert waits.why == why


def test_a_running_or_finished_pod_waits_for_nothing():
    assert waiting_for(pod(state={"running": {}}, phase="Running")) is None
    assert waiting_for(pod(state={"terminated": {"exitCode": 0}}, phase="Succeeded")) is None


def test_a_termination_has_the_error_and_hint_of_the_termination_message():
    message = json.dumps({"exit_code": 4, "error": "There is no model.", "hint": "Deliver it."})
    end = termination_of(pod(state={"terminated": {"exitCode": 4, "message": message}}, phase="Failed"))
    assert end is not None
    assert (end.exit_code, end.error, end.hint) == (4, "There is no model.", "Deliver it.")


def test_an_exceeded_memory_limit_is_reported():
    end = termination_of(pod(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, phase="Failed"))
    assert end is not None
    assert "exceeded its memory limit" in end.error and "resources.limits.memory" in end.hint


def test_a_failed_init_container_is_the_one_reported():
    init = {"name": "data-script", "state": {"terminated": {"exitCode": 3, "message": "error: no rows\nhint: look"}}}
    end = termination_of(pod(phase="Failed", init=[init], state={"waiting": {"reason": "PodInitializing"}}))
    assert end is not None
    assert (end.container, end.error, end.hint) == ("data-script", "no rows", "look")


@pytest.mark.parametrize(
    ("message", "parsed"),
    [
        ("a\r\nerror: bad\r\nhint: mend it\r\n", ("bad", "mend it")),
        ("the last line\n", ("the last line", "")),
        ("", ("", "")),
        ("3", ("3", "")),
    ],
)
def test_termination_messages_are_json_or_the_end_of_a_log(message, parsed):
    assert parse_termination_message(message) == parsed


def test_an_unresponsive_node_is_reported_with_its_time():
    ready = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert lost_node(pod(), {"status": {"conditions": [ready]}}) == (
        "node 'n1' has not responded since 2026-01-01 00:00:00 UTC"
    )
    assert lost_node(pod(), {"status": {"conditions": [{**ready, "status": "True"}]}}) == ""
    assert lost_node(pod(), None) == ""
    assert lost_node(pod(reason="NodeLost"), None) == "node 'n1' is lost"
