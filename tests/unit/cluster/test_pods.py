"""What pods wait for and how they ended, from documents as a cluster gave them."""

from __future__ import annotations

import json

import pytest

from tuneyard.cluster.pods import end_of, last_words, lost_node, waiting_for


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
        (waiting("ImagePullBackOff", "Back-off pulling"), [], "the image here/train:1 can't be pulled"),
        (waiting("ErrImageNeverPull", "not present"), [], "the image here/train:1 can't be pulled"),
        (waiting("CreateContainerConfigError", 'secret "keys" not found'), [], "the Secret keys is missing"),
        (waiting("CreateContainerConfigError", 'configmap "v" not found'), [], "the ConfigMap v is missing"),
        (
            waiting("CreateContainerConfigError", "couldn't find key A in Secret ns/keys"),
            [],
            "the Secret keys has no key A",
        ),
        (
            waiting("ContainerCreating"),
            [event("FailedMount", 'MountVolume.SetUp failed for volume "ca" : configmap "ca" not found')],
            "the ConfigMap ca is missing",
        ),
        (
            waiting("ContainerCreating"),
            [event("FailedAttachVolume", "the disk is elsewhere")],
            "its volume can't be mounted: the disk is elsewhere",
        ),
        (waiting("ContainerCreating"), [], "its pod is being started"),
        (
            unscheduled("0/3 nodes are available: 3 Insufficient amd.com/gpu. preemption: 0/3 nodes are available."),
            [],
            "no node has enough amd.com/gpu free",
        ),
        (
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            [event("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found')],
            "its volume is not bound: there is no storage class fast",
        ),
        (
            unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a: }. preemption: nothing."),
            [],
            "no node can take it: 1 node(s) had untolerated taint {a: }",
        ),
        (unscheduled("gated", "SchedulingGated"), [], "it waits to be admitted by its queue"),
    ],
)
def test_what_a_pod_waits_for_is_told_in_words(given, events, why):
    told = waiting_for(given, events)
    assert told is not None
    assert told.why == why


def test_a_pod_that_runs_or_is_over_waits_for_nothing():
    assert waiting_for(pod(state={"running": {}}, phase="Running")) is None
    assert waiting_for(pod(state={"terminated": {"exitCode": 0}}, phase="Succeeded")) is None


def test_the_end_is_told_with_the_sentence_and_the_hint_of_the_termination_message():
    message = json.dumps({"exit_code": 4, "error": "There is no model.", "hint": "Deliver it."})
    end = end_of(pod(state={"terminated": {"exitCode": 4, "message": message}}, phase="Failed"))
    assert end is not None
    assert (end.exit_code, end.error, end.hint) == (4, "There is no model.", "Deliver it.")


def test_memory_that_ran_out_is_named():
    end = end_of(pod(state={"terminated": {"exitCode": 137, "reason": "OOMKilled"}}, phase="Failed"))
    assert end is not None
    assert "more memory than its limit" in end.error and "resources.limits.memory" in end.hint


def test_a_failed_init_container_is_the_one_that_is_told_of():
    init = {"name": "data-script", "state": {"terminated": {"exitCode": 3, "message": "error: no rows\nhint: look"}}}
    end = end_of(pod(phase="Failed", init=[init], state={"waiting": {"reason": "PodInitializing"}}))
    assert end is not None
    assert (end.container, end.error, end.hint) == ("data-script", "no rows", "look")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("a\r\nerror: bad\r\nhint: mend it\r\n", ("bad", "mend it")),
        ("the last line\n", ("the last line", "")),
        ("", ("", "")),
        ("3", ("3", "")),
    ],
)
def test_last_words_are_read_off_json_and_logs_alike(message, words):
    assert last_words(message) == words


def test_a_node_that_does_not_answer_is_told_with_its_time():
    ready = {"type": "Ready", "status": "Unknown", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert lost_node(pod(), {"status": {"conditions": [ready]}}) == (
        "its node n1 has not answered since 2026-01-01 00:00:00 UTC"
    )
    assert lost_node(pod(), {"status": {"conditions": [{**ready, "status": "True"}]}}) == ""
    assert lost_node(pod(), None) == ""
    assert lost_node(pod(reason="NodeLost"), None) == "its node n1 is lost"
