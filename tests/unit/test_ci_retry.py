"""`.ci/run` and `.ci/retry.py` with real tests that fail once: what passes alone is recorded, counted, printed last."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAKY = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_passes_the_second_time(number):
    seen = Path(__file__).with_name(f"seen-{{number}}")
    before, _ = seen.exists(), seen.touch()
    assert before
"""
QUICK_START = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p xdist.plugin"}
SETUP = '[tool.pytest.ini_options]\ntestpaths = ["tests"]\nmarkers = ["soak", "cluster"]\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with this repository's Makefile and `.ci`, this environment, and no tests yet."""
    for name in ("Makefile", ".ci/retry.py", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pyproject.toml").write_text(SETUP)
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "tests/cluster").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    return tmp_path


def retry(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", "WORKERS": "0", **QUICK_START}
    command = [sys.executable, ".ci/retry.py", *words]
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)


def last_lines(done: subprocess.CompletedProcess[str], count: int) -> list[str]:
    return done.stdout.splitlines()[-count:]


def test_without_a_failure_nothing_is_recorded(project: Path) -> None:
    (project / "tests/test_sound.py").write_text("def test_sound(): ...\n")
    assert retry(project, "run", "test").returncode == 0
    done = retry(project, "report")
    assert (done.returncode, done.stdout) == (0, "No test failed once and passed alone.\n")


@pytest.mark.parametrize(("count", "code"), [(3, 0), (4, 1)])
def test_what_passes_alone_is_recorded_and_more_than_three_fail(project: Path, count: int, code: int) -> None:
    (project / "tests/test_flaky.py").write_text(FLAKY.format(count=count))
    ran = retry(project, "run", "test")
    assert ran.returncode == 0, ran.stdout
    assert f"make test: {count} failed, running them once more, alone:" in ran.stdout
    done = retry(project, "report")
    assert done.returncode == code
    assert last_lines(done, count + 1) == [
        f"Failed once and passed alone: {count}, at most 3 are allowed.",
        *(f"make test: tests/test_flaky.py::test_passes_the_second_time[{number}]" for number in range(count)),
    ]


def test_what_fails_twice_fails_and_is_not_recorded(project: Path) -> None:
    (project / "tests/test_flaky.py").write_text(FLAKY.format(count=1))
    (project / "tests/test_wrong.py").write_text("def test_wrong(): assert False\n")
    assert retry(project, "run", "test").returncode == 1
    done = retry(project, "report")
    assert last_lines(done, 1) == ["make test: tests/test_flaky.py::test_passes_the_second_time[0]"]


def test_an_error_of_pytest_itself_is_not_retried(project: Path) -> None:
    (project / "tests/test_unknown.py").write_text("import no_such_module\n")
    ran = retry(project, "run", "test")
    assert ran.returncode == 1
    assert ran.stdout.splitlines()[-1] == "make test failed; exit code of pytest: 2"
    assert "No test failed once" in retry(project, "report").stdout


def test_both_stages_share_the_record_and_the_cluster_repeats_whole_files(project: Path) -> None:
    """A test of the cluster builds on the one before it in its file, so that file runs again from its start."""
    (project / "tests/test_flaky.py").write_text(FLAKY.format(count=1))
    mark = "pytestmark = pytest.mark.cluster\ndef test_before(): print('before')\n"
    (project / "tests/cluster/test_job.py").write_text(FLAKY.format(count=1) + mark)
    (project / "tests/cluster/test_other.py").write_text(FLAKY.format(count=0) + mark)
    assert retry(project, "run", "test").returncode == 0
    ran = retry(
        project, "run", "cluster-test", "--files-in", "CLUSTER_TESTS", "--between", "touch tests/cluster/deleted"
    )
    assert ran.returncode == 0, ran.stdout
    assert (project / "tests/cluster/deleted").exists()
    assert "2 passed" in ran.stdout.splitlines()[-1]  # the whole file, and none of the other
    assert last_lines(retry(project, "report"), 2) == [
        "make test: tests/test_flaky.py::test_passes_the_second_time[0]",
        "make cluster-test: tests/cluster/test_job.py::test_passes_the_second_time[0]",
    ]


CHECKS = """
check charts docs:
\t@echo checked $(CHECK)
\t@$(CHECK)
"""


@pytest.mark.parametrize(
    ("count", "check", "code"), [(0, "true", 0), (3, "true", 0), (4, "true", 1), (4, "false", 2)], ids=str
)
def test_ci_prints_the_record_last_and_keeps_an_earlier_failure(
    project: Path, count: int, check: str, code: int
) -> None:
    """The checks are replaced, since they are not what is tested; there is no cluster beside the project."""
    (project / "tests/test_flaky.py").write_text(FLAKY.format(count=count) + "\ndef test_sound(): ...\n")
    makefile = (project / "Makefile").read_text()
    for name in ("check", "charts", "docs"):
        makefile = makefile.replace(f"\n{name}: install", f"\nours-{name}: install")
    (project / "Makefile").write_text(makefile + CHECKS)
    (project / "build").mkdir()
    (project / "build/retried.txt").write_text("make test: of an earlier run\n")
    environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", "WORKERS": "0", "CHECK": check, **QUICK_START}
    done = subprocess.run([".ci/run"], cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    if count == 0 or check == "false":
        assert last_lines(done, 1) == ["No test failed once and passed alone."]
    else:
        assert last_lines(done, count + 1)[0] == f"Failed once and passed alone: {count}, at most 3 are allowed."
