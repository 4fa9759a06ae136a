"""A report as text, as a document, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.diagnosis import Check, Report, format_report
from tuneyard.diagnosis.kubernetes import api_server
from tuneyard.diagnosis.requirements import read_requirements
from tuneyard.errors import InvalidValuesError, NotFoundError


def _report(*checks: Check, **facts: object) -> Report:
    return Report("this machine", checks, dict(facts))


OK = Check("python", "ok", "Python 3.11.7")
SLOW = Check("hub", "warning", "'https://huggingface.co' is unreachable", "Set HF_ENDPOINT to a mirror.")
MISSING = Check(
    "storage class", "problem", "storage class 'fast' does not exist; available: slow", "--set storageClass=slow", 4
)


def test_each_check_is_a_line_and_problems_come_last_with_advice():
    assert format_report(_report(OK, MISSING, SLOW)).splitlines() == [
        "ok      python         Python 3.11.7",
        "PROBLEM storage class  storage class 'fast' does not exist; available: slow",
        "warning hub            'https://huggingface.co' is unreachable",
        "",
        "Warnings:",
        "  hub: 'https://huggingface.co' is unreachable",
        "    -> Set HF_ENDPOINT to a mirror.",
        "",
        "Problems:",
        "  storage class: storage class 'fast' does not exist; available: slow",
        "    -> --set storageClass=slow",
        "",
        "this machine: 1 ok, 1 warning, 1 problem",
    ]


def test_lines_wrap_at_80_columns_and_commands_never_do():
    long = " ".join(["word"] * 60)
    command = "kubectl create secret generic a-name -n a-namespace " + " ".join(["--from-literal=key=VALUE"] * 4)
    text = format_report(_report(Check("a", "warning", long, f"{long}."), Check("b", "problem", long, command, 4)))
    lines = text.splitlines()
    assert f"    -> {command}" in lines
    assert max(len(line) for line in lines if command not in line) <= 80


def test_a_degraded_mode_lists_lost_and_remaining_guarantees():
    modes = [{"name": "single-writer", "loses": "launches can mix", "still": "one resumes exactly"}]
    lines = format_report(_report(OK, mode="degraded", degraded=modes)).splitlines()
    assert lines[-2:] == [
        "mode: degraded (single-writer)",
        "  single-writer: launches can mix; one resumes exactly",
    ]


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([4], 4), ([4, 3], 4), ([4, 7], 7), ([4, 5, 7], 5), ([1, 5, 8], 8), ([3, 6], 6)]
)
def test_the_exit_code_is_that_of_the_worst_problem(codes: list[int], expected: int):
    checks = [Check("x", "problem", "bad", "do", code) for code in codes]
    assert _report(OK, SLOW, *checks).exit_code == expected


def test_the_document_has_every_check_with_its_advice():
    document = _report(OK, MISSING).to_dict()
    assert document["exit_code"] == 4
    assert document["checks"][1] == {
        "name": "storage class",
        "outcome": "problem",
        "found": "storage class 'fast' does not exist; available: slow",
        "advice": "--set storageClass=slow",
        "exit_code": 4,
    }


TRAINING = ["basemodel=b/m", "finetuning_config.data_conf.training_data.datasets[0].path=b/d.jsonl"]


def test_the_verb_is_inferred_from_the_values():
    finetune = read_requirements([], [*TRAINING, "finetuningGpus=2", "nodes=3", "gpuResource=amd.com/gpu"])
    deliver = read_requirements([], ["modelID=a/b", "bucketModelPath=b/m", "labels.kueue\\.x-k8s\\.io/queue-name=q"])
    serve = read_requirements([], ["model=s3://b/m", "apiKeySecret.name=k"])
    assert finetune and deliver and serve
    assert (finetune.verb, deliver.verb, serve.verb) == ("finetune", "deliver", "serve")
    assert finetune.resources["amd.com/gpu"] == 6
    assert deliver.queue == "q"
    assert serve.secrets["k"] == ["api-key"]


def test_values_of_no_verb_raise_the_problems_of_the_closest():
    with pytest.raises(InvalidValuesError) as caught:
        read_requirements([], [*TRAINING, "finetuningGpu=2"])
    assert "finetuningGpu" in str(caught.value)


def test_no_values_have_no_requirements():
    assert read_requirements([], []) is None


def test_a_missing_values_file_is_reported(tmp_path: Path):
    with pytest.raises(NotFoundError, match=r"The values file '.+nothing.yaml' does not exist"):
        read_requirements([tmp_path / "nothing.yaml"], [])


@pytest.mark.parametrize(
    ("major", "minor", "outcome"), [("1", "29", "warning"), ("1", "30", "ok"), ("1", "34+", "ok"), ("2", "0", "ok")]
)
def test_a_cluster_too_old_for_servers_is_a_warning(major, minor, outcome):
    found = api_server({"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.1"})
    assert found.outcome == outcome
    assert f"Kubernetes v{major}.{minor}.1" in found.found
