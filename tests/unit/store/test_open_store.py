"""Opening stores by URL or path, the order in which one is chosen, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.store import default_store_url, find_store, open_store

KEYS = {"AWS_ACCESS_KEY_ID": "an-id", "AWS_SECRET_ACCESS_KEY": "hush-hush", "HOME": "/nowhere"}


def test_a_folder_is_a_store_by_url_and_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with ünusual name#1"
    open_store(str(folder)).put("bucket/key", b"body")
    assert open_store(folder.as_uri()).get("bucket/key").body == b"body"
    assert open_store(folder.as_uri()).url == folder.as_uri()
    assert (folder / "bucket/key").read_bytes() == b"body"


def test_opening_a_folder_creates_nothing(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("url", ["", "minio:9000", "s3://bucket", "ftp://store.example", "file:relative"])
def test_a_text_that_names_no_store_is_refused_and_creates_no_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidValuesError, match="The object store can't be used: store: "):
        open_store(url, environ=KEYS)
    assert list(tmp_path.iterdir()) == []


def test_the_first_configured_store_is_used(tmp_path: Path) -> None:
    environ = {"TUNEYARD_STORE": str(tmp_path / "environment"), "TUNEYARD_HOME": str(tmp_path / "home")}
    fallback = (tmp_path / "values").as_uri()
    assert find_store("/given", fallback=fallback, environ=environ).url == "file:///given"
    assert find_store(fallback=fallback, environ=environ).url == (tmp_path / "environment").as_uri()
    environ["TUNEYARD_STORE"] = ""
    assert find_store(fallback=fallback, environ=environ).url == fallback
    assert find_store(environ=environ).url == default_store_url(environ)


def test_an_empty_name_is_refused_and_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(InvalidValuesError, match="store: is empty"):
        find_store("", environ={"TUNEYARD_STORE": str(tmp_path)})


def test_the_variable_is_named_where_its_text_is_refused() -> None:
    with pytest.raises(InvalidValuesError, match="TUNEYARD_STORE: is neither a URL nor clearly a path"):
        find_store(environ={"TUNEYARD_STORE": "minio:9000"})


def test_the_default_store_lies_in_tuneyards_own_folder(tmp_path: Path) -> None:
    assert default_store_url({"TUNEYARD_HOME": str(tmp_path)}) == (tmp_path / "store").as_uri()
    assert default_store_url({}).startswith("file:///")


def test_the_room_is_imported_without_obstore_and_without_torch() -> None:
    code = (
        "import sys, tuneyard.store; print([name for name in ('obstore', 'torch', 'pydantic') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
