"""From URLs to stores, and what a URL that is none is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.store import default_store_url, open_store

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "hush-hush", "HOME": "/nowhere"}


def test_a_folder_is_a_store_by_url_and_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with ünusual name#1"
    open_store(str(folder)).put("bucket/key", b"body")
    assert open_store(folder.as_uri()).get("bucket/key").body == b"body"
    assert open_store(folder.as_uri()).url == folder.as_uri()
    assert (folder / "bucket/key").read_bytes() == b"body"


def test_opening_a_folder_makes_nothing(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    assert list(store.list("bucket/")) == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("https://minio.minio-tenant-default.svc.cluster.local:443", None),
        ("http://127.0.0.1:9000", None),
        ("https://store.example/", "https://store.example"),
        ("s3://", None),
    ],
)
def test_an_s3_server_is_a_store(url: str, opened: str | None) -> None:
    assert open_store(url, environ=KEYS).url == (opened or url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3://bucket",
        "s3://bucket/prefix",
        "https://",
        "https://store.example/bucket",
        "https://store.example?x=y",
        "https://store.example:port",
        "ftp://store.example",
        "file://elsewhere/folder",
        "file:relative",
        "://",
    ],
)
def test_what_is_no_store_is_refused_with_the_forms_there_are(url: str) -> None:
    with pytest.raises(InvalidValuesError, match="not the URL of an object store") as caught:
        open_store(url, environ=KEYS)
    assert "file:///folder" in caught.value.hint


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidValuesError, match=r"store\.example has credentials in it") as caught:
        open_store("https://me:hush-hush@store.example", environ=KEYS)
    assert "hush-hush" not in caught.value.message + caught.value.hint


def test_the_default_store_lies_in_tuneyards_own_folder(tmp_path: Path) -> None:
    assert default_store_url({"TUNEYARD_HOME": str(tmp_path)}) == (tmp_path / "store").as_uri()
    assert default_store_url({}).startswith("file:///")


def test_the_room_is_imported_without_obstore_and_without_torch() -> None:
    code = (
        "import sys, tuneyard.store; print([name for name in ('obstore', 'torch', 'pydantic') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
