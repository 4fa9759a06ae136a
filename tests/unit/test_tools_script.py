"""`scripts/tools.py` against a mirror on this machine: it installs what matches its checksum, and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import pytest

from lab.missing_tools import TOOLS as NEEDED
from lab.web_servers import web_server

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/tools.py"
sys.path.insert(0, str(SCRIPT.parent))

from tools import Tool, tools  # noqa: E402

PROGRAM = b"#!/bin/sh\necho %s runs\n"


def file_of(tool: Tool, name: str) -> bytes:
    program = PROGRAM % name.encode()
    if not tool.member:
        return program
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, body in ((f"some-folder/{tool.member}", program), ("LICENSE", b"")):
            entry = tarfile.TarInfo(path)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return packed.getvalue()


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A mirror of every tool, in the forms that the projects publish checksums in; its URL and its folder."""
    folder = tmp_path / "mirror"

    def place(url: str) -> Path:
        parts = urlsplit(url)
        path = folder / f"{parts.netloc}{parts.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    for name, tool in tools().items():
        body = file_of(tool, name)
        place(tool.url).write_bytes(body)
        digest, file = hashlib.sha256(body).hexdigest(), tool.url.rpartition("/")[2]
        line = digest if name == "kubectl" else f"{digest}  {file}"
        place(tool.checksum).write_text(f"{'0' * 64}  other-{file}\n{line}\n" if "  " in line else line)
    handler = cast("type[SimpleHTTPRequestHandler]", partial(SimpleHTTPRequestHandler, directory=str(folder)))
    with web_server(handler) as url:
        yield url, folder


def run(folder: Path, mirror: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PATH": path, "no_proxy": "*"}
    command = [sys.executable, str(SCRIPT), str(folder), "--mirror", mirror]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_every_tool_is_installed_and_runs(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    done = run(tmp_path / "bin", mirror[0])
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == sorted(tools())
    for name in tools():
        assert subprocess.check_output([tmp_path / "bin" / name], text=True) == f"{name} runs\n"


def test_a_changed_file_is_not_installed_and_the_others_are(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    url, folder = mirror
    (changed,) = folder.rglob("minio.RELEASE*Z")
    changed.write_bytes(changed.read_bytes() + b"\n")
    done = run(tmp_path / "bin", url)
    assert done.returncode == 1
    assert "minio: https://dl.min.io/" in done.stderr
    assert "has the SHA-256" in done.stderr
    assert sorted(path.name for path in (tmp_path / "bin").iterdir()) == sorted(set(tools()) - {"minio"})


def test_what_is_on_the_path_is_left_alone(tmp_path: Path, mirror: tuple[str, Path]) -> None:
    there = tmp_path / "there/helm"
    there.parent.mkdir()
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    done = run(tmp_path / "bin", mirror[0], str(there.parent))
    assert "helm: already downloaded" in done.stdout
    assert not (tmp_path / "bin/helm").exists()
    assert (tmp_path / "bin/kubectl").exists()


def test_without_a_network_each_tool_has_an_error_that_names_its_address(tmp_path: Path) -> None:
    with web_server(SimpleHTTPRequestHandler) as url:
        pass
    done = run(tmp_path / "bin", url)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == len(tools())
    assert all("could not be downloaded" in line for line in done.stderr.splitlines())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("machine", ["amd64", "arm64"])
def test_it_has_every_program_that_tests_need_but_the_compiler(system: str, machine: str) -> None:
    assert set(NEEDED) - {"cc"} <= set(tools(system, machine))
