"""Which texts name a store, and that anything else is refused with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.address import StoreAddress, parse_address
from tuneyard.errors import InvalidValuesError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder `there` and one named like a server in it."""
    (tmp_path / "there").mkdir()
    (tmp_path / "minio:9000").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("https://minio:9000", "https://minio:9000"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("HTTPS://Store.Example", "https://store.example"),
        ("https://[::1]:9000", "https://[::1]:9000"),
        ("s3://", ""),
    ],
)
def test_a_url_names_a_server(text: str, endpoint: str) -> None:
    assert parse_address(text) == StoreAddress(endpoint=endpoint)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("./store", "store"),
        ("./minio:9000", "minio:9000"),
        ("../store", "../store"),
        (".", ""),
        ("there", "there"),
        ("~", "home"),
        ("~/store", "home/store"),
    ],
)
def test_a_relative_path_that_can_be_nothing_else_names_a_folder_below_the_current_one(
    here: Path, text: str, folder: str
) -> None:
    assert parse_address(text) == StoreAddress(folder=here / folder)


@pytest.mark.parametrize("text", ["/srv/store", "file:///srv/store", "file://localhost/srv/store"])
def test_an_absolute_path_or_its_url_names_a_folder(text: str) -> None:
    assert parse_address(text) == StoreAddress(folder=Path("/srv/store"))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("localhost:9000", "https://localhost:9000"),
        ("minio:9000", "https://minio:9000"),  # even though a folder of that name exists
        ("minio:9000/default-bucket", "https://minio:9000"),
        ("10.0.0.1:9000", "https://10.0.0.1:9000"),
        ("[::1]:9000", "https://[::1]:9000"),
        ("localhost", "https://localhost"),
        ("store.example", "https://store.example"),
        ("//store.example/bucket", "https://store.example"),
        ("https:/minio:9000", "https://minio:9000"),
        ("https:minio:9000", "https://minio:9000"),
        ("http//minio:9000", "http://minio:9000"),
        (" https://minio:9000", "https://minio:9000"),
        ("https://minio:9000\n", "https://minio:9000"),
        ("https://minio:9000/default-bucket", "https://minio:9000"),
        ("https://minio:9000?x=y", "https://minio:9000"),
        ("s3://bucket/prefix", "s3://"),
        ("s3:", "s3://"),
        ("file:/srv/store", "file:///srv/store"),
        ("file:///srv/store#1", "file:///srv/store%231"),
        ("file://~/store", "~/store"),
        ("new-store", "./new-store"),
        ("data/store", "./data/store"),
        ("$HOME/store", "./$HOME/store"),
        ("~nobody-of-that-name/store", "./~nobody-of-that-name/store"),
    ],
)
def test_any_other_text_is_refused_with_a_suggestion(here: Path, text: str, meant: str) -> None:
    with pytest.raises(InvalidValuesError) as caught:
        parse_address(text, named_by="TUNEYARD_STORE")
    (problem,) = caught.value.problems
    assert (problem.where, problem.value, problem.suggestion) == ("TUNEYARD_STORE", repr(text), meant)
    for allowed in ("https://host:port", "file:///folder", "./folder"):
        assert allowed in problem.allowed
    assert str(problem) in caught.value.message
    assert caught.value.hint
    assert sorted(path.name for path in here.iterdir()) == ["minio:9000", "there"]


@pytest.mark.parametrize("text", ["", "ftp://store.example", "https://", "://", "https://minio:99999", "https://a b"])
def test_an_unrecognised_text_is_refused_without_a_guess(here: Path, text: str) -> None:
    with pytest.raises(InvalidValuesError) as caught:
        parse_address(text)
    assert caught.value.problems[0].suggestion == ""


def test_the_hint_has_the_form_for_the_other_meaning(here: Path) -> None:
    with pytest.raises(InvalidValuesError) as server:
        parse_address("localhost:9000")
    assert server.value.hint == "For a server without TLS, write http://localhost:9000; for a folder, ./localhost:9000."
    with pytest.raises(InvalidValuesError) as folder:
        parse_address("new-store")
    assert folder.value.hint == "For a server, write https://HOST:PORT."


@pytest.mark.parametrize(
    "text", ["https://me:hush-hush@minio:9000", "me:hush-hush@minio:9000", "http://me:hush-hush@x:y"]
)
def test_credentials_are_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidValuesError, match="credentials") as caught:
        parse_address(text)
    assert "hush-hush" not in f"{caught.value} {caught.value.hint} {caught.value.details}"
