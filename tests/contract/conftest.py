"""The five stores that every test of the contract runs on."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.places import Place
from lab.s3_servers import BUCKET, NAMES, S3Server
from tuneyard.store import open_store


@pytest.fixture(scope="session")
def folder_store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (tmp_path_factory.mktemp("folder store") / "root").as_uri()


@pytest.fixture(params=["folder", *(pytest.param(name, marks=pytest.mark.s3) for name in NAMES)])
def place(request: pytest.FixtureRequest, folder_store_url: str, s3_server_of: Callable[[str], S3Server]) -> Place:
    test = re.sub(r"\W+", "-", request.node.name)[:80]
    prefix = f"{BUCKET}/{test}-{secrets.token_hex(4)}/"
    path = {"PATH": os.environ["PATH"]}
    if request.param == "folder":
        env = {"TUNEYARD_STORE": folder_store_url, **path}
        return Place(open_store(folder_store_url), prefix, env)
    server = s3_server_of(request.param)
    return Place(server.open(), prefix, {**server.env, **path})


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.s3) for name in NAMES])
def server(request: pytest.FixtureRequest, s3_server_of: Callable[[str], S3Server]) -> S3Server:
    return s3_server_of(request.param)


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.s3) for name in NAMES if not name.endswith("-tls")])
def http_server(request: pytest.FixtureRequest, s3_server_of: Callable[[str], S3Server]) -> S3Server:
    return s3_server_of(request.param)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with a few files, one larger than a part of a multipart upload."""
    folder = tmp_path / "tree"
    (folder / "sub/deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "sub/empty").write_bytes(b"")
    (folder / "sub/deep/vocab.txt").write_bytes("wörter\n".encode() * 1000)
    (folder / "model.safetensors").write_bytes(secrets.token_bytes(1024 * 1024) * 18)
    return folder
