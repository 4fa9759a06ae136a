"""A cluster's findings combined into a verdict, and the estimate in a pod: its spec and its output."""

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
from tuneyard.runners.kubernetes.forecast import estimate, memory, parse_estimate, verdict_of
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
    return Finding(place, fits, f"{place}: {fits}")


VERDICTS = {
    "everything fits": ([("queue", "yes"), ("nodes", "yes")], "yes", "It fits and would be admitted now."),
    "no queue": ([("nodes", "yes")], "yes", "It fits and starts as soon as a node has room."),
    "unknown memory": (
        [("queue", "yes"), ("memory", "unknown")],
        "yes",
        "It fits and would be admitted now.",
    ),
    "unknown nodes": (
        [("queue", "yes"), ("nodes", "unknown")],
        "unknown",
        "It is unknown whether it fits: nodes: unknown.",
    ),
    "one waits": (
        [("queue", "not now"), ("nodes", "unknown")],
        "not now",
        "It would wait: queue: not now.",
    ),
    "two never fit": (
        [("queue", "never"), ("nodes", "never"), ("memory", "yes")],
        "never",
        "It can never run: queue: never; nodes: never.",
    ),
    "memory never fits": ([("queue", "yes"), ("memory", "never")], "never", "It can never run: memory: never."),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_worst_finding_decides(case):
    found, fits, sentence = VERDICTS[case]
    verdict = verdict_of([finding(*one) for one in found])
    assert (verdict.fits, verdict.sentence) == (fits, sentence)
    assert bool(verdict.hint) == (fits in ("never", "not now"))


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
        (False, Capacity((), 8 * GIB, None), "yes", "a pod needs an estimated 8 Gi; at most 8 Gi is available"),
        (False, Capacity((), 7 * GIB, None), "never", "a pod needs an estimated 8 Gi; at most 7 Gi is available"),
        (True, Capacity((), 1, 4 * GIB), "yes", "an accelerator needs an estimated 4 Gi; at most 4 Gi is available"),
        (True, Capacity((), 1, 3 * GIB), "never", "an accelerator needs an estimated 4 Gi"),
        (
            True,
            Capacity((), 1, None),
            "unknown",
            "an accelerator needs an estimated 4 Gi; how much is",
        ),
    ],
)
def test_memory_is_that_of_an_accelerator_or_of_all_processes_of_a_pod(on_accelerators, room, fits, words):
    found = memory(estimate_of(4 * GIB, processes=4), Demand(2, {}, {}, {}, ""), room, on_accelerators=on_accelerators)
    assert (found.place, found.fits) == ("memory", fits)
    assert found.sentence.startswith(words)


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


def test_a_pods_estimate_is_found_among_lines_for_people():
    estimated = estimate_of(1, 1)
    printed = json.dumps({"schema": 1, "estimate": estimated.to_json()}, indent=2)
    log = f"checking the data: 4\n{printed}\nerror: never\n"
    assert parse_estimate(log, Termination("plan", 3), "train") == estimated


@pytest.mark.parametrize(
    ("log", "end", "kind", "words"),
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
            "The image 'train' prints estimates in a format",
        ),
    ],
)
def test_an_error_in_a_pod_is_raised_by_its_exit_code(log, end, kind, words):
    with pytest.raises(kind) as raised:
        parse_estimate(log, end, "train")
    assert words in raised.value.message
    assert raised.value.hint


def kubernetes():
    """Return the runner of a cluster that no test reaches."""
    return KubernetesRunner()


def test_options_that_a_target_does_not_support_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--inside is for a cluster"):
        forecast(Sources(values=VALUES), LocalRunner(tmp_path), inside=True)
    with pytest.raises(UsageError, match="--store is for this machine"):
        forecast(Sources(values=VALUES, store="s3://"), kubernetes(), inside=True)
    with pytest.raises(UsageError, match="No store is configured"):
        forecast(Sources(values={**VALUES, "bucketStorageHost": ""}), kubernetes())


def estimated_by(store=None, *, inside=False):
    """Return where the estimate is made: on this machine it would need the store, which does not exist."""
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
