"""What a folder store has written survives a power cut: first the file's bytes are on disk, then its name.

No test can cut the power, so the order of the system calls is looked at: every `fsync` is done for real, and noted with
what could be seen of the object at that moment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuneyard.store import Store, open_store

KEY = "bucket/runs/new/checkpoint-1/model.safetensors"
OLD, NEW = b"old", b"new and longer"


@dataclass(frozen=True)
class Synced:
    """One call of `fsync`.

    Attributes:
        path: What was synced.
        size: Its size then.
        visible: What could be read under the key then; None where there was nothing.
    """

    path: Path
    size: int
    visible: bytes | None


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Synced]:
    """Note every `fsync` of this process, which is still done."""
    noted: list[Synced] = []
    real, target = os.fsync, tmp_path / KEY

    def fsync(descriptor: int) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  (no path of ours)
        visible = target.read_bytes() if target.exists() else None
        noted.append(Synced(path, os.fstat(descriptor).st_size, visible))

    monkeypatch.setattr(os, "fsync", fsync)
    return noted


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


def test_every_new_folder_s_own_name_is_synced_too(tmp_path: Path, synced: list[Synced]) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/runs/other", b"")
    synced.clear()
    store.put(KEY, NEW)
    made = (tmp_path / KEY).parent
    assert [folder.path for folder in synced[1:]] == [made, made.parent, made.parent.parent]
    synced.clear()
    store.put(KEY, NEW)
    assert [folder.path for folder in synced[1:]] == [made]
