"""What `make test` says of the tests that it could not run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lab import missing_tools

ROOT = Path(__file__).parents[2]
LACKS = """
import pytest
from lab import missing_tools

@missing_tools.needs("versitygw")
def test_a(): ...

@pytest.mark.parametrize("number", [1, 2])
def test_b(number):
    pytest.skip(missing_tools.reason("helm"))

def test_c():
    pytest.skip("nothing is denied to root")

def test_d(): ...
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_last_line_counts_what_was_not_run_by_the_program_it_needs(tmp_path: Path, workers: str) -> None:
    (tmp_path / "test_lacks.py").write_text(LACKS)
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "lab.missing_tools",
            "-n",
            workers,
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        env={"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1] == (
        "Tests run: 1. Not run, since they need programs that are not on PATH: 3 (helm 2, versitygw 1); "
        "see Tests in CONTRIBUTING.md. Not for this machine: 1, for the reasons above."
    )


def test_with_every_program_there_the_line_says_so() -> None:
    assert missing_tools.summary([], 7) == "Tests run: 7, all that this machine can run."


def test_every_program_is_told_of_where_the_line_points() -> None:
    tests = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Tests")[2]
    for tool in missing_tools.TOOLS:
        assert f"`{tool}`" in tests, tool


def test_no_test_has_a_reason_of_its_own_for_a_program() -> None:
    own = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(skip|reason)\W.*\bPATH\b", line) and path.stem not in ("missing_tools", "test_missing_tools")
    ]
    assert own == []
