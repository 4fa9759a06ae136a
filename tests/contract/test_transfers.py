"""Trees of files to a store and back: whole and verified, or not visible at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.places import Place
from lab.s3_servers import BUCKET, S3Server
from tuneyard.errors import AlreadyExistsError, IntegrityError, NotFoundError
from tuneyard.store import (
    FileEntry,
    Manifest,
    download,
    pull,
    read_manifest,
    upload,
    upload_tree,
    verify,
    verify_folder,
    write_manifest,
)


def deliver(place: Place, tree: Path) -> Manifest:
    manifest = Manifest("model", tuple(upload_tree(place.store, tree, place / "model/")), {"from": "a test"})
    write_manifest(place.store, place / "model/.tuneyard/manifest.json", manifest)
    return manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_tree_is_pulled_as_it_was_uploaded_with_its_progress(place: Place, tree: Path, tmp_path: Path) -> None:
    sent: list[float] = []
    files = upload_tree(place.store, tree, place / "model/", advance=sent.append)
    manifest = Manifest("model", tuple(files))
    assert sum(sent) == manifest.size == sum(len(body) for body in contents(tree).values())
    write_manifest(place.store, place / "model/.tuneyard/manifest.json", manifest)

    assert read_manifest(place.store, place / "model/.tuneyard/manifest.json") == manifest
    got: list[float] = []
    folder = pull(place.store, place / "model/", manifest, tmp_path / "pulled", advance=got.append)
    assert sum(got) == manifest.size
    assert {path: (folder / path).read_bytes() for path in contents(tree)} == contents(tree)
    verify_folder(folder, manifest)
    verify(place.store, place / "model/", manifest)


def test_only_a_folder_store_is_used_in_place(place: Place, tree: Path, tmp_path: Path) -> None:
    folder = pull(place.store, place / "model/", deliver(place, tree), tmp_path / "pulled")
    local = place.store.local_path(place / "model/config.json")
    if place.store.url.startswith("file:"):
        assert local == (folder / "config.json").resolve()
    else:
        assert local is None
        assert not (folder / "config.json").is_symlink()


def test_a_pull_holds_only_what_the_manifest_names(place: Place, tree: Path, tmp_path: Path) -> None:
    manifest = deliver(place, tree)
    for stray in ("model.safetensors.index.json", "adapter_config.json", "sub/deep/added.json"):
        place.store.put(place / f"model/{stray}", b"{}")
    (tmp_path / "pulled" / "sub").mkdir(parents=True)
    (tmp_path / "pulled" / "sub" / "of an earlier pull").write_bytes(b"{}")
    assert contents(pull(place.store, place / "model/", manifest, tmp_path / "pulled")) == contents(tree)


def flip_a_byte(place: Place, key: str) -> None:
    body = bytearray(place.store.get(key).body)
    body[len(body) // 2] ^= 1
    place.store.put(key, bytes(body))


def truncate(place: Place, key: str) -> None:
    place.store.put(key, place.store.get(key).body[:-1])


def append_a_byte(place: Place, key: str) -> None:
    place.store.put(key, place.store.get(key).body + b"\0")


def delete(place: Place, key: str) -> None:
    place.store.delete([key])


DAMAGES = [flip_a_byte, truncate, append_a_byte, delete]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_the_store_is_found_and_no_file_appears(
    place: Place, tree: Path, tmp_path: Path, damage: Callable[[Place, str], None]
) -> None:
    manifest = deliver(place, tree)
    key = place / "model/sub/deep/vocab.txt"
    damage(place, key)
    with pytest.raises(IntegrityError, match=key) as verified:
        verify(place.store, place / "model/", manifest)
    with pytest.raises((IntegrityError, NotFoundError), match=key):
        pull(place.store, place / "model/", manifest, tmp_path / "pulled")
    entry = next(entry for entry in manifest.files if entry.path == "sub/deep/vocab.txt")
    assert str(verified.value.details["expected"]) in {str(entry.size), entry.sha256}
    assert not (tmp_path / "pulled/sub/deep/vocab.txt").exists()
    assert not list(tmp_path.rglob(".tuneyard-partial-*"))


def test_a_pull_keeps_what_verifies_and_replaces_what_does_not(
    http_server: S3Server, tree: Path, tmp_path: Path
) -> None:
    place = Place(http_server.open(), f"{BUCKET}/{secrets.token_hex(8)}/", http_server.env)
    manifest = deliver(place, tree)
    pulled = pull(place.store, place / "model/", manifest, tmp_path / "pulled")
    kept = (pulled / "model.safetensors").stat().st_mtime_ns
    (pulled / "sub/deep/vocab.txt").write_bytes(b"damaged")
    (pulled / "config.json").unlink()
    (pulled / "sub/.tuneyard-partial-killed").write_bytes(b"half")
    pull(place.store, place / "model/", manifest, pulled)
    assert contents(pulled) == contents(tree)
    assert (pulled / "model.safetensors").stat().st_mtime_ns == kept


def test_one_file_is_downloaded_only_as_expected(place: Place, tree: Path, tmp_path: Path) -> None:
    digest = upload(place.store, tree / "config.json", place / "config.json")
    expect = FileEntry("config.json", digest.size, digest.sha256)
    download(place.store, place / "config.json", tmp_path / "new/config.json", expect=expect)
    assert (tmp_path / "new/config.json").read_bytes() == b"{}"
    wrong = FileEntry("config.json", digest.size, "0" * 64)
    with pytest.raises(IntegrityError, match=r"config\.json. has the SHA-256"):
        download(place.store, place / "config.json", tmp_path / "new/other.json", expect=wrong)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]


def test_a_second_manifest_replaces_the_first_only_if_allowed(place: Place, tree: Path) -> None:
    manifest = deliver(place, tree)
    key = place / "model/.tuneyard/manifest.json"
    other = Manifest("model", manifest.files[:1])
    with pytest.raises(AlreadyExistsError, match=key):
        write_manifest(place.store, key, other)
    assert read_manifest(place.store, key) == manifest
    write_manifest(place.store, key, other, replace=True)
    assert read_manifest(place.store, key) == other


def test_a_missing_manifest_is_not_found(place: Place) -> None:
    with pytest.raises(NotFoundError, match=r"manifest\.json"):
        read_manifest(place.store, place / "manifest.json")


def test_an_upload_of_a_missing_folder_is_not_found(place: Place, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no folder"):
        upload_tree(place.store, tmp_path / "nothing", place / "model/")
    with pytest.raises(NotFoundError, match="no file"):
        upload(place.store, tmp_path / "nothing", place / "key")


def test_files_in_a_folder_are_verified_too(tree: Path, tmp_path: Path, place: Place) -> None:
    manifest = deliver(place, tree)
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    (copy / "unnamed").write_bytes(b"passed over")
    verify_folder(copy, manifest)
    (copy / "sub/empty").unlink()
    with pytest.raises(IntegrityError, match=r"sub/empty. is missing"):
        verify_folder(copy, manifest)
