"""Manifests: one JSON form, one content hash, and nothing taken from a damaged one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.errors import IntegrityError, InvalidValuesError
from tuneyard.store import FileEntry, Manifest

ONE = FileEntry("config.json", 2, "a" * 64)
TWO = FileEntry("model.safetensors", 10**12, "b" * 64)


def test_a_manifest_is_read_back_as_it_was_written() -> None:
    manifest = Manifest("checkpoint", (TWO, ONE), {"step": 12, "größe": [1, {"x": None}]})
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.files == (ONE, TWO)
    assert again.size == 10**12 + 2
    assert again.to_json() == manifest.to_json()


def test_only_the_files_make_the_content_hash() -> None:
    manifest = Manifest("model", (ONE, TWO), {"from": "here"})
    assert Manifest("dataset", (TWO, ONE), {"from": "there"}).content_sha256 == manifest.content_sha256
    for other in (
        (ONE,),
        (ONE, FileEntry("model.safetensors", 10**12, "c" * 64)),
        (ONE, FileEntry("model.bin", 10**12, "b" * 64)),
        (ONE, FileEntry("model.safetensors", 1, "b" * 64)),
    ):
        assert Manifest("model", other).content_sha256 != manifest.content_sha256


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a\\b", "a/", "a\0"])
def test_a_path_that_leaves_the_prefix_is_refused(path: str) -> None:
    with pytest.raises(InvalidValuesError):
        FileEntry(path, 1, "a" * 64)


@pytest.mark.parametrize(("size", "sha256"), [(-1, "a" * 64), (1, "a" * 63), (1, "A" * 64), (1, "")])
def test_an_impossible_size_or_hash_is_refused(size: int, sha256: str) -> None:
    with pytest.raises(InvalidValuesError):
        FileEntry("file", size, sha256)


def test_a_path_twice_or_a_file_below_a_file_is_refused() -> None:
    with pytest.raises(InvalidValuesError, match="twice"):
        Manifest("model", (ONE, FileEntry("config.json", 3, "c" * 64)))
    with pytest.raises(InvalidValuesError, match=r"below it, .config\.json/x"):
        Manifest("model", (ONE, FileEntry("config.json/x", 3, "c" * 64)))


def changed(**changes: Any) -> bytes:
    document = json.loads(Manifest("model", (ONE, TWO)).to_json())
    return json.dumps({**document, **changes}).encode()


DAMAGED = {
    "cut": Manifest("model", (ONE, TWO)).to_json()[:-20],
    "empty": b"",
    "no object": b"[]",
    "no format": b"{}",
    "not text": b"\xff\xfe",
    "kind": changed(kind="sculpture"),
    "about": changed(about=[]),
    "files": changed(files=7),
    "file": changed(files=["config.json"]),
    "file without hash": changed(files=[{"path": "config.json", "size": 2}]),
    "escaping path": changed(files=[{"path": "../x", "size": 2, "sha256": "a" * 64}]),
    "size as text": changed(files=[{"path": "x", "size": "2", "sha256": "a" * 64}]),
    "other files": changed(files=[{"path": "x", "size": 2, "sha256": "a" * 64}]),
    "other hash": changed(content_sha256="0" * 64),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_manifest_is_reported_with_its_key(damage: str) -> None:
    with pytest.raises(IntegrityError, match=r"The manifest 'bucket/manifest\.json' ") as caught:
        Manifest.from_json(DAMAGED[damage], where="bucket/manifest.json")
    assert caught.value.hint


def test_a_newer_format_requires_a_newer_tuneyard() -> None:
    with pytest.raises(IntegrityError, match="format 99") as caught:
        Manifest.from_json(changed(format=99), where="bucket/manifest.json")
    assert "pip install --upgrade tuneyard" in caught.value.hint


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_damage(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_json(body)
