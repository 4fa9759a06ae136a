"""`TUNEYARD_TRIALS_STORE` runs the trials on one store of the user's, in a bucket of the user's, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from lab.fault_proxy import Fault, fault_proxy
from lab.s3_servers import S3Server

TESTS = Path(__file__).parents[1]
NETWORK = "chaos/test_network.py::test_20_saves_over_a_faulty_network_are_all_committed"


def run_pytest(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *words]
    environ = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(command, cwd=TESTS, env=environ, capture_output=True, text=True, check=False)


def test_every_trial_runs_on_the_given_store_alone() -> None:
    ours = run_pytest({}, "--collect-only", "chaos")
    given = run_pytest({"TUNEYARD_TRIALS_STORE": "https://store.example"}, "--collect-only", "chaos")
    assert "[folder]" in ours.stdout
    assert "[minio]" in ours.stdout
    assert "[given" not in ours.stdout
    tests = [line.partition("::")[2] for line in given.stdout.splitlines() if "[" in line]
    on_stores = [test for test in tests if not test.startswith("test_a_full_store_")]  # fills the disk of our own
    assert len(on_stores) > 10
    assert [test for test in on_stores if "[given" not in test] == []


@pytest.mark.s3
def test_the_trials_write_into_the_given_bucket_and_leave_nothing(s3_server: S3Server) -> None:
    s3_server.make_bucket("trials")
    paths: list[str] = []

    def record(method: str, path: str) -> Fault:
        paths.append(path)
        return "none"

    with fault_proxy(s3_server.url, record) as url:
        environ = {**s3_server.env, "TUNEYARD_TRIALS_STORE": url, "TUNEYARD_TRIALS_BUCKET": "trials"}
        done = run_pytest(environ, NETWORK)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert len(paths) > 100
    assert {path.split("/")[1].partition("?")[0] for path in paths} == {"trials"}
    assert list(s3_server.open().list("trials/")) == []
