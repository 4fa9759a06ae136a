"""Download the programs that tests need: helm with helm-unittest, kubectl, minio and versitygw.

    python3 scripts/tools.py FOLDER [--mirror URL]

`make tools` puts them into `.tools`, where the Makefile finds them. A program that is on PATH already is left alone.
Each has a fixed version, and has to match the SHA-256 that its project publishes beside it: that guards against a
damaged or truncated download, not against a project's own server. Needs Python alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
import re
import shutil
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

SYSTEM = platform.system().lower()
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
_GITHUB = "https://github.com/{}/releases/download/v{}"


@dataclass(frozen=True)
class Tool:
    """A program, and where its project publishes it.

    Attributes:
        url: The binary, or a gzipped tar archive of it.
        checksum: A text with the SHA-256 of that file, alone or in a line with its name.
        member: The name of the binary in the archive; empty for a bare binary.
    """

    url: str
    checksum: str
    member: str = ""


def tools(system: str = SYSTEM, machine: str = MACHINE) -> dict[str, Tool]:
    """Return every tool by the name of its program.

    Args:
        system: `linux` or `darwin`.
        machine: `amd64` or `arm64`.
    """
    helm = f"https://get.helm.sh/helm-v4.0.0-{system}-{machine}.tar.gz"
    kubectl = f"https://dl.k8s.io/release/v1.34.1/bin/{system}/{machine}/kubectl"
    minio = f"https://dl.min.io/server/minio/release/{system}-{machine}/archive/minio.RELEASE.2025-09-07T16-13-09Z"
    unittest = _GITHUB.format("helm-unittest/helm-unittest", "1.0.3")
    versitygw = _GITHUB.format("versity/versitygw", "1.0.18")
    of_uname = {"amd64": "x86_64"}.get(machine, machine)
    of_unittest = {"darwin": "macos"}.get(system, system)
    return {
        "helm": Tool(helm, f"{helm}.sha256sum", "helm"),
        "helm-unittest": Tool(
            f"{unittest}/helm-unittest-{of_unittest}-{machine}-1.0.3.tgz",
            f"{unittest}/helm-unittest-checksum.sha",
            "untt",
        ),
        "kubectl": Tool(kubectl, f"{kubectl}.sha256"),
        "minio": Tool(minio, f"{minio}.sha256sum"),
        "versitygw": Tool(
            f"{versitygw}/versitygw_v1.0.18_{system.title()}_{of_uname}.tar.gz",
            f"{versitygw}/checksums.txt",
            "versitygw",
        ),
    }


class ToolError(Exception):
    """Raised if a program could not be downloaded, or does not have the published checksum."""


def main() -> int:
    """Download what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mirror", metavar="URL", help="fetch https://HOST/PATH from URL/HOST/PATH")
    given = parser.parse_args()
    failed = False
    for name, tool in tools().items():
        if (given.folder / name).exists() or shutil.which(name):
            print(f"{name}: already downloaded")
            continue
        try:
            install(name, tool, given.folder, mirror=given.mirror)
            print(f"{name}: downloaded to {given.folder / name}")
        except ToolError as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
    return int(failed)


def install(name: str, tool: Tool, folder: Path, *, mirror: str | None = None) -> None:
    """Download a program into a folder.

    Args:
        name: The file to write.
        tool: Where it comes from.
        folder: The folder, which is made where it is missing.
        mirror: As for `--mirror`.

    Raises:
        ToolError: It could not be downloaded, or its checksum does not match.
    """
    expected = published_sha256(_fetch(tool.checksum, mirror).decode(), tool.url.rpartition("/")[2])
    body = _fetch(tool.url, mirror)
    found = hashlib.sha256(body).hexdigest()
    if found != expected:
        raise ToolError(f"{tool.url} has the SHA-256 {found}, but {tool.checksum} has {expected}.")
    if tool.member:
        body = _member(body, tool)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{name}.partial"
    partial.write_bytes(body)
    partial.chmod(0o755)
    partial.replace(folder / name)


def published_sha256(text: str, file: str) -> str:
    """Find the checksum of a file in a published text: a hash alone, or lines of a hash and a name.

    Raises:
        ToolError: There is none.
    """
    for line in text.splitlines():
        digest, *names = line.split()
        if re.fullmatch(r"[0-9a-f]{64}", digest) and (not names or names[0].lstrip("*") == file):
            return digest
    raise ToolError(f"no SHA-256 of {file} is published.")


def _member(archive: bytes, tool: Tool) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        for entry in opened:
            if entry.isfile() and Path(entry.name).name == tool.member and (file := opened.extractfile(entry)):
                return file.read()
    raise ToolError(f"{tool.url} contains no {tool.member}.")


def _fetch(url: str, mirror: str | None) -> bytes:
    parts = urlsplit(url)
    address = f"{mirror.rstrip('/')}/{parts.netloc}{parts.path}" if mirror else url
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.read()
    except (URLError, TimeoutError, ConnectionError) as error:
        raise ToolError(f"{address} could not be downloaded: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
