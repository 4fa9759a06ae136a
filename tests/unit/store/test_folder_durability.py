"""What a store has written, and a download too, survives a power cut: first the bytes are on disk, then the name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from lab.syncs import Synced, note_syncs
from tuneyard.store import FileEntry, Store, download, open_store

KEY = "bucket/runs/new/checkpoint-1/model.safetensors"
OLD, NEW = b"old", b"new and longer"


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Synced]:
    return note_syncs(monkeypatch, tmp_path / KEY)


def write(store: Store, verb: str) -> None:
    if verb == "write":
        store.write(KEY, [NEW[:4], NEW[4:]])
    elif verb == "replace":
        store.replace(KEY, NEW, etag=store.head(KEY).etag)
    else:
        getattr(store, verb)(KEY, NEW)


@pytest.mark.parametrize(
    ("verb", "before"),
    [("put", None), ("put", OLD), ("create", None), ("replace", OLD), ("write", None), ("write", OLD)],
)
def test_the_bytes_are_synced_before_the_name_and_the_name_after_it(
    tmp_path: Path, synced: list[Synced], verb: str, before: bytes | None
) -> None:
    store = open_store(tmp_path.as_uri())
    if before is not None:
        store.put(KEY, before)
    synced.clear()
    write(store, verb)
    assert (tmp_path / KEY).read_bytes() == NEW
    file, *folders = synced
    assert file.path.is_relative_to(tmp_path / ".store/tmp")
    assert file.size == len(NEW), "the whole file has to be there when it is synced"
    assert file.visible == before, "it must not have its name yet"
    assert (tmp_path / KEY).parent in [folder.path for folder in folders]
    assert all(folder.visible == NEW for folder in folders), "a folder is synced when the name is in it"


def test_the_name_of_every_new_folder_is_synced_too(tmp_path: Path, synced: list[Synced]) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/runs/other", b"")
    synced.clear()
    store.put(KEY, NEW)
    made = (tmp_path / KEY).parent
    assert [folder.path for folder in synced[1:]] == [made, made.parent, made.parent.parent]
    synced.clear()
    store.put(KEY, NEW)
    assert [folder.path for folder in synced[1:]] == [made]


@pytest.mark.parametrize("before", [None, OLD])
def test_a_download_is_synced_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    store = open_store((tmp_path / "store").as_uri())
    store.put(KEY, NEW)
    path = tmp_path / "model.safetensors"
    if before is not None:
        path.write_bytes(before)
    synced = note_syncs(monkeypatch, path)
    download(store, KEY, path, expect=FileEntry(path.name, len(NEW), hashlib.sha256(NEW).hexdigest()))
    assert path.read_bytes() == NEW
    assert [(one.size, one.visible) for one in synced] == [(len(NEW), before)]
