"""What was found in a cluster summed up as one verdict, and the look from inside: its pod, and what it says."""

from __future__ import annotations

import json
import sys

import pytest

from tuneyard.cluster.capacity import Capacity
from tuneyard.cluster.demand import Demand, Finding
from tuneyard.cluster.one_off_pod import one_off_spec
from tuneyard.cluster.pods import Termination
from tuneyard.errors import InvalidValuesError, NotFoundError, UnavailableError, UsageError
from tuneyard.estimate import Estimate, Memory
from tuneyard.estimate.estimate import Disk
from tuneyard.estimate.work import Work
from tuneyard.runners import Launch, RunKey
from tuneyard.runners.forecast import forecast
from tuneyard.runners.kubernetes import KubernetesRunner
from tuneyard.runners.kubernetes.forecast import answer, estimate, memory, verdict_of
from tuneyard.runners.local import LocalRunner
from tuneyard.runners.plans import Sources
from tuneyard.values import BatchSizes, FinetuneValues

GIB = 2**30
VALUES = {
    "basemodel": "default-bucket/models/m",
    "bucketStorageHost": "https://store.example",
    "finetuning_config": {"data_conf": {"training_data": {"datasets": [{"path": "default-bucket/d/c.jsonl"}]}}},
}


def finding(place, fits):
    return Finding(place, fits, f"{place} says {fits}")


VERDICTS = {
    "all is well": ([("queue", "yes"), ("nodes", "yes")], "yes", "It fits and would be admitted now."),
    "no queue": ([("nodes", "yes")], "yes", "It fits, and starts as soon as a node is free for it."),
    "memory that is not known": (
        [("queue", "yes"), ("memory", "unknown")],
        "yes",
        "It fits and would be admitted now.",
    ),
    "nodes that are not known": (
        [("queue", "yes"), ("nodes", "unknown")],
        "unknown",
        "It is not known whether it fits: nodes says unknown.",
    ),
    "one has to wait": (
        [("queue", "not now"), ("nodes", "unknown")],
        "not now",
        "It would have to wait: queue says not now.",
    ),
    "two say never": (
        [("queue", "never"), ("nodes", "never"), ("memory", "yes")],
        "never",
        "It can never run: queue says never; nodes says never.",
    ),
    "memory says never": ([("queue", "yes"), ("memory", "never")], "never", "It can never run: memory says never."),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_worst_that_was_found_decides(case):
    found, fits, sentence = VERDICTS[case]
    told = verdict_of([finding(*one) for one in found])
    assert (told.fits, told.sentence) == (fits, sentence)
    assert bool(told.hint) == (fits in ("never", "not now"))


def estimate_of(total, processes):
    return Estimate(
        parameters=1,
        trained=1,
        memory=Memory(total, 0, 0, 0, 0, 0, 0, 0, "backward"),
        processes=processes,
        sizes=BatchSizes(4, 2, 2),
        work=Work(None, None, None, None, 1, 1, 1, exact=False),
        seconds=None,
        how="",
        disk=Disk(1, 1, 1, 1, 0),
        notes=(),
    )


@pytest.mark.parametrize(
    ("on_accelerators", "room", "fits", "words"),
    [
        (False, Capacity((), 8 * GIB, None), "yes", "a pod needs 8 Gi by estimate, and 8 Gi is the most"),
        (False, Capacity((), 7 * GIB, None), "never", "a pod needs 8 Gi by estimate, and 7 Gi is the most"),
        (True, Capacity((), 1, 4 * GIB), "yes", "an accelerator needs 4 Gi by estimate, and 4 Gi is the most"),
        (True, Capacity((), 1, 3 * GIB), "never", "an accelerator needs 4 Gi"),
        (True, Capacity((), 1, None), "unknown", "an accelerator needs 4 Gi; what there is of it is not known here"),
    ],
)
def test_memory_is_that_of_an_accelerator_or_of_all_processes_of_a_pod(on_accelerators, room, fits, words):
    told = memory(estimate_of(4 * GIB, processes=4), Demand(2, {}, {}, {}, ""), room, on_accelerators=on_accelerators)
    assert (told.place, told.fits) == ("memory", fits)
    assert told.sentence.startswith(words)


def test_a_one_off_pod_requests_none_of_its_runs_resources():
    run = {
        "nodeSelector": {"pool": "large"},
        "subdomain": "lora",
        "containers": [
            {
                "name": "finetune",
                "image": "train",
                "tty": True,
                "stdin": True,
                "resources": {"requests": {"amd.com/gpu": "8"}, "limits": {"amd.com/gpu": "8"}},
                "env": [{"name": "TUNEYARD_NODES", "value": "2"}, {"name": "HTTP_PROXY", "value": "p"}],
                "volumeMounts": [{"name": "work", "mountPath": "/work", "subPathExpr": "lora-$(JOB_COMPLETION_INDEX)"}],
            }
        ],
        "volumes": [
            {"name": "work", "persistentVolumeClaim": {"claimName": "shared"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec = one_off_spec(run, "plan", ["python"])
    assert spec == {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "plan",
                "image": "train",
                "command": ["python"],
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}},
                "env": [{"name": "HTTP_PROXY", "value": "p"}],
                "volumeMounts": [{"name": "work", "mountPath": "/work"}],
            }
        ],
        "volumes": [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
    }
    assert run["containers"][0]["name"] == "finetune"


def test_what_a_pod_printed_is_found_among_lines_for_people():
    told = estimate_of(1, 1)
    printed = json.dumps({"schema": 1, "estimate": told.to_json()}, indent=2)
    assert answer(f"checking the data: 4\n{printed}\nerror: never\n", Termination("plan", 3), "train") == told


@pytest.mark.parametrize(
    ("said", "end", "kind", "words"),
    [
        ("error: no model\nhint: deliver it\n", Termination("plan", 4), NotFoundError, "no model"),
        (
            "error: 1 row is bad\n  x:1: empty\nhint: look\n",
            Termination("plan", 3),
            InvalidValuesError,
            "bad\n  x:1: empty",
        ),
        ("", Termination("plan", 128, "no python"), UnavailableError, "The estimate in the cluster failed: no python"),
        (
            '{\n  "estimate": {}\n}\n',
            Termination("plan", 0),
            UnavailableError,
            "The image 'train' prints estimates in a form",
        ),
    ],
)
def test_a_mistake_in_a_pod_is_of_the_kind_its_exit_code_tells(said, end, kind, words):
    with pytest.raises(kind) as raised:
        answer(said, end, "train")
    assert words in raised.value.message
    assert raised.value.hint


def kubernetes():
    """Return the runner of a cluster that no test reaches."""
    return KubernetesRunner()


def test_options_that_a_target_does_not_take_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--inside is for a cluster"):
        forecast(Sources(values=VALUES), LocalRunner(tmp_path), inside=True)
    with pytest.raises(UsageError, match="--store is for this machine"):
        forecast(Sources(values=VALUES, store="s3://"), kubernetes(), inside=True)
    with pytest.raises(UsageError, match="The values name no store"):
        forecast(Sources(values={**VALUES, "bucketStorageHost": ""}), kubernetes())


def estimated_by(store=None, *, inside=False):
    """Return whether a pod estimates: the other way needs the store, which is not there."""
    values = FinetuneValues.model_validate(VALUES)
    launch = Launch(RunKey("finetune", "plan"), values, values.bucketStorageHost)
    try:
        estimate(launch, store=store, inside=inside, options=" --on kubernetes", from_pod=lambda: estimate_of(1, 1))
    except (NotFoundError, UnavailableError):
        return "this machine"
    return "a pod"


def test_without_torch_a_pod_estimates(tmp_path, monkeypatch):
    empty = (tmp_path / "empty").as_uri()
    monkeypatch.setenv("TUNEYARD_STORE", empty)
    assert estimated_by() == "this machine"
    assert estimated_by(inside=True) == "a pod"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert estimated_by() == "a pod"
    assert estimated_by(store=empty) == "this machine"


def test_what_training_refuses_is_refused_before_the_cluster_is_contacted():
    values = {**VALUES, "distributedType": "auto-deepspeed-stage3"}
    for inside in (True, False):
        with pytest.raises(InvalidValuesError, match="not supported by this version"):
            forecast(Sources(values=values, store=None), kubernetes(), inside=inside)
