"""Bytes are held against what their source declares of them, and a folder gives nothing from outside of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tuneyard.delivery.checks import checked
from tuneyard.delivery.sources import FolderSource, Source, SourceFile, StoreSource
from tuneyard.errors import DeniedError, IntegrityError
from tuneyard.store import FileEntry, Manifest, open_store, write_manifest


def read(source: Source, file: SourceFile) -> bytes:
    return b"".join(checked(source, file, advance=lambda count: None))


@pytest.mark.parametrize("now", [b"", b"weight", b"weights and more"])
def test_a_file_whose_size_changed_since_its_listing_is_refused(tmp_path: Path, now: bytes) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    source = FolderSource(tmp_path)
    assert read(source, source.files[0]) == b"weights"
    (tmp_path / "w").write_bytes(now)
    with pytest.raises(IntegrityError, match=f"The size of .w. .* is .{len(now)}., but the source declares .7."):
        read(source, source.files[0])


def test_bytes_that_differ_from_the_manifest_are_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    store.put("bucket/model/w", b"weights")
    entry = FileEntry("w", 7, hashlib.sha256(b"weights").hexdigest())
    write_manifest(store, "bucket/model/.tuneyard/manifest.json", Manifest(kind="model", files=(entry,), about={}))
    source = StoreSource(store, "bucket/model/")
    assert read(source, source.files[0]) == b"weights"
    store.put("bucket/model/w", b"weightz")
    with pytest.raises(IntegrityError, match=r"The SHA-256 of .w"):
        read(source, source.files[0])


@pytest.mark.parametrize("depth", ["", "sub"])
def test_a_link_out_of_a_folder_is_refused_on_listing(tmp_path: Path, depth: str) -> None:
    (tmp_path / "secret").write_text("s")
    folder = tmp_path / "model"
    (folder / depth).mkdir(parents=True)
    (folder / depth / "w").symlink_to(tmp_path / "secret")
    with pytest.raises(DeniedError, match="is a link out of its folder"):
        FolderSource(folder)


def test_a_file_replaced_by_a_link_out_of_its_folder_is_refused_on_reading(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secrets")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w").write_text("weights")
    source = FolderSource(folder)
    (folder / "w").unlink()
    (folder / "w").symlink_to(tmp_path / "secret")
    with pytest.raises(DeniedError, match="is a link out of its folder"):
        read(source, source.files[0])


def test_links_within_a_folder_and_into_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "abc"
    blobs = tmp_path / "models--org--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "1").write_text("weights")
    (snapshot / "w").symlink_to(blobs / "1")
    (snapshot / "copy").symlink_to(snapshot / "w")
    source = FolderSource(snapshot)
    assert [read(source, file) for file in source.files] == [b"weights", b"weights"]
