"""`tuneyard doctor` as a program: its output and exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.racy_s3 import racy_s3


def doctor(home: Path, *words: str, **environ: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "tuneyard", "doctor", *words],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "TUNEYARD_HOME": str(home), "HF_HUB_OFFLINE": "1", **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def checks(out: str) -> dict[str, Any]:
    return {check["name"]: check for check in json.loads(out)["checks"]}


def test_this_machine_meets_the_prerequisites(tmp_path: Path):
    code, out, _ = doctor(tmp_path, "--json", "-q", TUNEYARD_DEVICE="cpu")
    found = checks(out)
    assert code == 0, out
    assert json.loads(out)["schema"] == 1
    assert {name for name, check in found.items() if check["outcome"] == "problem"} == set()
    assert found["hub"]["outcome"] == "warning"
    assert found["device"]["found"].endswith("(set by TUNEYARD_DEVICE)")
    assert f"'file://{tmp_path}/store' is reachable" in found["store"]["found"]
    assert [path for path in (tmp_path / "store/default-bucket").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("environ", "name", "text", "code"),
    [
        ({"TUNEYARD_DEVICE": "tpu"}, "device", "TUNEYARD_DEVICE is 'tpu'", 2),
        ({"TUNEYARD_DEVICE": "mps"}, "device", "torch finds no such device", 8),
        ({"TUNEYARD_STORE": "http://127.0.0.1:1"}, "store", "There are no credentials", 5),
        (
            {"TUNEYARD_STORE": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            "store",
            "can't be reached: connection refused",
            8,
        ),
    ],
)
def test_a_problem_of_this_machine_is_reported(
    environ: dict[str, str], name: str, text: str, code: int, tmp_path: Path
):
    ended, out, _ = doctor(tmp_path, "--json", "-q", **environ)
    found = checks(out)[name]
    assert (found["outcome"], ended) == ("problem", code)
    assert text in found["found"]
    assert found["advice"]


def test_missing_tools_are_no_problem_for_the_local_target(tmp_path: Path):
    _, out, _ = doctor(tmp_path, "--json", "-q", PATH=str(tmp_path))
    assert [checks(out)[name]["outcome"] for name in ("helm", "kubectl")] == ["skipped", "skipped"]


def test_missing_kubectl_is_a_problem_for_the_kubernetes_target(tmp_path: Path):
    code, out, _ = doctor(tmp_path, "--on", "kubernetes", "--json", "-q", PATH=str(tmp_path))
    assert code == 4
    assert checks(out)["kubectl"]["found"] == "not found on PATH"


def test_cluster_options_are_rejected_for_the_local_target(tmp_path: Path):
    code, _, errors = doctor(tmp_path, "--namespace", "x")
    assert code == 2
    assert "--namespace can't be used on this machine." in errors


def test_a_store_without_atomic_writes_is_degraded(tmp_path: Path):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with racy_s3("racing writes") as (url, objects):
        code, out, errors = doctor(tmp_path, "store", "--store", url, "--rounds", "2", **keys)
        assert objects == {}
    assert code == 0
    assert "mode: degraded (single-writer)" in out
    assert "two concurrent launches of one run may both continue" in " ".join(out.split())
    assert "Checking conditional create" in errors


def test_a_store_with_incomplete_listings_is_unusable(tmp_path: Path):
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with racy_s3("truncated pages") as (url, _):
        code, out, _ = doctor(tmp_path, "store", "--store", url, "--rounds", "1", "-q", **keys)
    assert code == 4
    assert "mode: unusable" in out


def test_torch_is_not_imported_in_the_commands_process(tmp_path: Path):
    script = "import sys; from tuneyard.diagnosis import check_local; check_local(); print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "TUNEYARD_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert ran.stdout.strip() == "False"
