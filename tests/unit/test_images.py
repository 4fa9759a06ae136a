from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "images").glob("*.Dockerfile"))
REQUIREMENTS = sorted((ROOT / "images" / "requirements").glob("*.txt"))


def _instructions(dockerfile: Path) -> list[str]:
    lines = dockerfile.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_there_is_a_dockerfile_for_each_image():
    assert [path.stem for path in DOCKERFILES] == ["deliver", "serve", "train"]


def test_the_requirements_are_those_of_the_lock():
    script = ROOT / "scripts" / "image_requirements.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.stem)
def test_every_package_has_one_version_and_a_hash(path):
    text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 5
    assert [one for one in entries if not re.match(r"[\w.\[\],-]+==\S+", one) or "--hash=sha256:" not in one] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_packages_are_installed_with_hashes_and_without_others(path):
    installs = [line for line in _instructions(path) if line.startswith("RUN") and '"install"' in line]
    assert installs
    assert [
        line for line in installs if not {'"--require-hashes"', '"--no-deps"'} <= set(re.findall(r'"[^"]*"', line))
    ] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_the_last_stage_is_not_root_and_copies_the_source_after_all_else(path):
    lines = _instructions(path)
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) > 1
    last = lines[stages[-1] :]
    assert [line for line in last if line.startswith("USER ")] == ["USER 1000:1000"]
    source = next(number for number, line in enumerate(last) if "/opt/source /opt/source" in line)
    assert [line for line in last[source + 1 :] if line.startswith(("RUN ", "COPY ", "ADD "))] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_every_base_names_its_version(path):
    bases = [line.partition("=")[2] for line in _instructions(path) if re.match(r"ARG (BASE|VLLM_\w+)=", line)]
    assert bases
    assert [base for base in bases if not re.search(r"(:[^:/]*\d|@sha256:)", base) or base.endswith(":latest")] == []


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_processes_start_without_a_shell(path):
    commands = [line for line in _instructions(path) if line.startswith(("CMD ", "ENTRYPOINT "))]
    assert commands
    assert [line for line in commands if not re.match(r"\w+ \[", line)] == []


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("cpu", None),
        ("rocm", "of this image is not built for rocm."),
        ("tpu", "VARIANT is 'tpu'; allowed: cpu, cuda, rocm."),
    ],
)
def test_torch_in_an_image_must_be_built_for_its_accelerators(variant, message):
    script = ROOT / "images" / "torch_build.py"
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env={"VARIANT": variant}, capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (message is None), done.stderr
    assert (message or "") in done.stderr


def test_training_on_rocm_is_built_on_an_image_that_is_named():
    environ = {"PATH": os.environ["PATH"], "BUILDER": "echo"}
    build = [str(ROOT / "images" / "build"), "rocm", "deliver", "train"]
    refused = subprocess.run(build, env=environ, capture_output=True, text=True, timeout=60)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "train for rocm needs BASE" in refused.stderr
    done = subprocess.run(build, env={**environ, "BASE": "amd/torch:2.13"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.count("BASE=amd/torch:2.13") == 2


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_what_is_copied_is_not_ignored(path):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word
        for line in _instructions(path)
        if line.startswith("COPY ") and "--from=" not in line
        for word in line.split()[1:-1]
    ]
    assert copied
    assert [word for word in copied if not any(f"{word}/".startswith(f"{name}/") for name in kept)] == []
