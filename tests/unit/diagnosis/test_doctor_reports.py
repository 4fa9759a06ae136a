"""What a report says for people and for programs, and the code it ends with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.diagnosis import Check, Report, told
from tuneyard.diagnosis.asked import asked_of
from tuneyard.diagnosis.kubernetes import api_server
from tuneyard.errors import InvalidValuesError, NotFoundError


def _report(*checks: Check, **facts: object) -> Report:
    return Report("this machine", checks, dict(facts))


OK = Check("python", "ok", "Python 3.11.7")
LATE = Check("hub", "warning", "https://huggingface.co can't be reached", "Set HF_ENDPOINT to a mirror.")
GONE = Check("storage class", "problem", "there is no storage class fast; there is slow", "--set storageClass=slow", 4)


def test_each_check_is_a_line_and_what_is_wrong_stands_last_with_what_to_do():
    assert told(_report(OK, GONE, LATE)).splitlines() == [
        "ok      python         Python 3.11.7",
        "PROBLEM storage class  there is no storage class fast; there is slow",
        "warning hub            https://huggingface.co can't be reached",
        "",
        "Warnings:",
        "  hub: https://huggingface.co can't be reached",
        "    -> Set HF_ENDPOINT to a mirror.",
        "",
        "Problems:",
        "  storage class: there is no storage class fast; there is slow",
        "    -> --set storageClass=slow",
        "",
        "this machine: 1 ok, 1 warning, 1 problem",
    ]


def test_lines_keep_to_80_columns_and_commands_are_never_broken():
    long = " ".join(["word"] * 60)
    command = "kubectl create secret generic a-name -n a-namespace " + " ".join(["--from-literal=key=VALUE"] * 4)
    text = told(_report(Check("a", "warning", long, f"{long}."), Check("b", "problem", long, command, 4)))
    lines = text.splitlines()
    assert f"    -> {command}" in lines
    assert max(len(line) for line in lines if command not in line) <= 80


def test_a_degraded_mode_says_what_is_lost_and_what_still_holds():
    modes = [{"name": "single-writer", "loses": "two launches can mix", "still": "one resumes exactly"}]
    lines = told(_report(OK, mode="degraded", degraded=modes)).splitlines()
    assert lines[-2:] == [
        "mode: degraded (single-writer)",
        "  single-writer: two launches can mix; one resumes exactly",
    ]


@pytest.mark.parametrize(
    ("codes", "ends"), [([], 0), ([4], 4), ([4, 3], 4), ([4, 7], 7), ([4, 5, 7], 5), ([1, 5, 8], 8), ([3, 6], 6)]
)
def test_a_report_ends_with_the_code_of_its_worst_problem(codes: list[int], ends: int):
    checks = [Check("x", "problem", "bad", "do", code) for code in codes]
    assert _report(OK, LATE, *checks).exit_code == ends


def test_programs_get_every_check_with_its_advice():
    document = _report(OK, GONE).to_dict()
    assert document["exit_code"] == 4
    assert document["checks"][1] == {
        "name": "storage class",
        "outcome": "problem",
        "found": "there is no storage class fast; there is slow",
        "advice": "--set storageClass=slow",
        "exit_code": 4,
    }


TRAINING = ["basemodel=b/m", "finetuning_config.data_conf.training_data.datasets[0].path=b/d.jsonl"]


def test_the_verb_is_found_from_the_values():
    finetune = asked_of([], [*TRAINING, "finetuningGpus=2", "nodes=3", "gpuResource=amd.com/gpu"])
    deliver = asked_of([], ["modelID=a/b", "bucketModelPath=b/m", "labels.kueue\\.x-k8s\\.io/queue-name=q"])
    serve = asked_of([], ["model=s3://b/m", "apiKeySecret.name=k"])
    assert finetune and deliver and serve
    assert (finetune.verb, deliver.verb, serve.verb) == ("finetune", "deliver", "serve")
    assert finetune.resources["amd.com/gpu"] == 6
    assert deliver.queue == "q"
    assert serve.secrets["k"] == ["api-key"]


def test_values_of_no_verb_are_refused_with_the_problems_of_the_nearest():
    with pytest.raises(InvalidValuesError) as caught:
        asked_of([], [*TRAINING, "finetuningGpu=2"])
    assert "finetuningGpu" in str(caught.value)


def test_no_values_ask_for_nothing():
    assert asked_of([], []) is None


def test_a_values_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="There is no values file"):
        asked_of([tmp_path / "nothing.yaml"], [])


@pytest.mark.parametrize(
    ("major", "minor", "outcome"), [("1", "29", "warning"), ("1", "30", "ok"), ("1", "34+", "ok"), ("2", "0", "ok")]
)
def test_a_cluster_that_is_too_old_for_a_server_is_told(major, minor, outcome):
    found = api_server({"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.1"})
    assert found.outcome == outcome
    assert f"Kubernetes v{major}.{minor}.1" in found.found
