"""The last line of `make test`: what was skipped for lack of a program, and how to get it."""

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
def test_the_last_line_counts_skipped_tests_by_the_program_that_they_need(tmp_path: Path, workers: str) -> None:
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
        "Tests run: 1. Skipped for lack of a program: 3 (helm 2, versitygw 1). To run them, run 'make tools'. "
        "Skipped for other reasons, listed above: 1."
    )


def test_with_every_program_the_line_has_no_hint() -> None:
    assert missing_tools.summary([], 7) == "Tests run: 7, all that this machine can run."


def test_each_program_has_its_own_way_to_get_it() -> None:
    line = missing_tools.summary([missing_tools.reason(tool) for tool in ("cc", "minio", "helm")], 7)
    assert line.endswith(
        "(cc 1, minio 1, helm 1). To run them, run 'make tools'; "
        "install a C compiler, such as the package build-essential."
    )


def test_contributing_lists_every_program() -> None:
    tests = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Tests")[2]
    for tool in missing_tools.TOOLS:
        assert f"`{tool}`" in tests, tool


def test_no_test_words_its_own_skip_reason_for_a_program() -> None:
    own = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"(skip|reason)\W.*\bPATH\b", line) and path.stem not in ("missing_tools", "test_missing_tools")
    ]
    assert own == []
