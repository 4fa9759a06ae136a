"""The built wheel, installed elsewhere, gives a working `tuneyard`: without this checkout and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.missing_tools import needs
from tuneyard.cluster import CHARTS

ROOT = Path(__file__).parents[2]
UV = [sys.executable, "-m", "uv"]


def run(*words, cwd, **environment):
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    run(*UV, "build", "-q", "--wheel", "--out-dir", folder / "dist", ROOT, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(*UV, "venv", "-q", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv/bin/python"
    pinned = ["-c", ROOT / "constraints.txt"]
    run(*UV, "pip", "install", "-q", "--compile-bytecode", "--python", python, *pinned, wheel, cwd=folder)
    return folder


def test_the_command_answers_and_names_its_verbs(installed):
    said = run(installed / "venv/bin/tuneyard", "--help", cwd=installed)
    for verb in ("deliver", "finetune", "serve", "chat", "runs", "logs", "watch", "stop", "delete", "data"):
        assert f"  {verb} " in said


def test_it_needs_no_torch_and_resolves_values(installed):
    values = ROOT / "examples/tuneyard-facts/finetune.yaml"
    command = [installed / "venv/bin/tuneyard", "finetune", "-f", values, "--dry-run", "--json"]
    said = run(*command, cwd=installed, TUNEYARD_HOME=str(installed / "home"))
    assert "tuneyard-facts" in json.dumps(json.loads(said))
    assert not list((installed / "venv").glob("lib/python*/site-packages/torch"))


def test_the_package_is_typed_and_licensed(installed):
    (package,) = (installed / "venv").glob("lib/python*/site-packages/tuneyard")
    assert (package / "py.typed").exists()
    (metadata,) = package.parent.glob("tuneyard-*.dist-info")
    assert "Apache" in (metadata / "licenses/LICENSE").read_text()


def test_the_charts_lie_in_the_package_byte_for_byte(installed):
    (package,) = (installed / "venv").glob("lib/python*/site-packages/tuneyard")
    compared = 0
    for name, place in CHARTS.values():
        ours, theirs = ROOT / "workloads" / place, package / "charts" / name
        files = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
        assert files == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
        for file in files:
            assert (theirs / file).read_bytes() == (ours / file).read_bytes(), file
        compared += len(files)
    assert compared > 40


@needs("helm")
def test_the_installed_package_renders_its_own_charts(installed):
    script = """
import json, sys
from tuneyard.cluster import Tools, chart_folder, render
assert "site-packages" in str(chart_folder("finetune")), chart_folder("finetune")
print(json.dumps(render(Tools(None, "here"), "finetune", "mine", sys.stdin.buffer.read())))
"""
    command = [installed / "venv/bin/tuneyard", "finetune", "-f", ROOT / "examples/tuneyard-facts/finetune.yaml"]
    told = json.loads(run(*command, "--dry-run", "--json", cwd=installed, TUNEYARD_HOME=str(installed / "home")))
    done = subprocess.run(
        [str(installed / "venv/bin/python"), "-c", script],
        input=json.dumps(told["values"]),
        capture_output=True,
        text=True,
        cwd=installed,
    )
    assert done.returncode == 0, done.stderr
    objects = json.loads(done.stdout)
    assert [one["kind"] for one in objects][-1] == "Job"
    assert {one["metadata"]["namespace"] for one in objects} == {"here"}
