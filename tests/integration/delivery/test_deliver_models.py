"""Models from the Hub, from folders and from other places, into a store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.deliveries import FILES, JOURNAL, MANIFEST, MODEL, Delivery, safetensors
from lab.hub_server import Fault
from lab.s3_servers import BUCKET, S3Server
from tuneyard.delivery.sources import FolderSource
from tuneyard.errors import (
    ConflictError,
    DeniedError,
    IntegrityError,
    InvalidDataError,
    InvalidValuesError,
    NotFoundError,
    UnavailableError,
)
from tuneyard.store import FileEntry, Manifest, open_store, read_manifest, verify, write_manifest


def test_a_model_arrives_whole_pinned_and_verified_with_its_manifest(delivery: Delivery) -> None:
    commit = delivery.hub.add_model("org/tiny", FILES)
    report = delivery.run(downloadExcludeGlob="original/*").model
    assert report is not None
    assert (report.status, report.files, report.left_out) == ("delivered", 5, ("original/params.json",))
    manifest = read_manifest(delivery.store, MANIFEST)
    assert manifest.kind == "model"
    assert manifest.content_sha256 == report.content_sha256
    assert manifest.about["source"] == {"kind": "hub", "modelID": "org/tiny", "revision": "", "commit": commit}
    assert manifest.about["exclude"] == ["original/*"]
    assert {entry.path: entry.sha256 for entry in manifest.files} == {
        path: hashlib.sha256(body).hexdigest() for path, body in FILES.items() if path != "original/params.json"
    }
    verify(delivery.store, f"{MODEL}/", manifest)
    assert delivery.paths() == [".tuneyard/manifest.json", *(entry.path for entry in manifest.files)]


def test_nothing_is_staged_on_this_machine(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    result = delivery.process()
    assert result.returncode == 0, result.stderr
    outside = [path for path in delivery.folder.rglob("*") if path.is_file() and "store" not in path.parts]
    assert sum(path.stat().st_size for path in outside) < 100_000  # values.json and the like, no weights


def test_every_byte_comes_from_one_commit(delivery: Delivery) -> None:
    commit = delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    resolved = [seen.path for seen in delivery.hub.seen if "/resolve/" in seen.path]
    assert len(resolved) == len(FILES)
    assert all(f"/resolve/{commit}/" in path for path in resolved)


def test_a_repeated_delivery_transfers_nothing(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    first = delivery.run().model
    again = delivery.run().model
    assert first is not None
    assert again is not None
    assert (again.status, again.transferred_bytes, again.content_sha256) == ("unchanged", 0, first.content_sha256)
    assert all(delivery.hub.fetched(path) == 1 for path in FILES)


def test_a_model_pinned_to_a_commit_that_is_there_needs_no_hub(delivery: Delivery) -> None:
    commit = delivery.hub.add_model("org/tiny", FILES)
    delivery.run(modelRevision=commit)
    requests = len(delivery.hub.seen)
    assert delivery.run(modelRevision=commit).model is not None
    assert len(delivery.hub.seen) == requests
    delivery.run(modelRevision=commit, downloadExcludeGlob="", allowOverwrite=True)
    assert len(delivery.hub.seen) == requests


def test_without_the_hub_the_hint_names_the_delivered_commit(delivery: Delivery) -> None:
    commit = delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    delivery.hub.api_faults = [Fault(status=503)] * 2
    with pytest.raises(UnavailableError) as caught:
        delivery.run()
    assert caught.value.hint.endswith(f"--set modelRevision={commit}")
    assert delivery.run(modelRevision=commit).model is not None


def test_a_new_commit_with_the_same_files_is_unchanged_and_remembered(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    commit = delivery.hub.add_model("org/tiny", FILES)
    report = delivery.run().model
    assert read_manifest(delivery.store, MANIFEST).about["source"]["commit"] == commit
    assert report is not None
    assert report.status == "unchanged"
    assert delivery.hub.fetched("config.json") == 1


def test_another_model_in_the_same_place_is_a_conflict_that_names_what_differs(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    before = read_manifest(delivery.store, MANIFEST)
    changed = {path: body for path, body in FILES.items() if path != "tokenizer.json"}
    delivery.hub.add_model("org/tiny", {**changed, "config.json": b"{}", "new.json": b"1"})
    with pytest.raises(ConflictError, match=r"1 differ .config.json.; 1 are new .new.json.; 1 are missing") as caught:
        delivery.run()
    assert caught.value.exit_code == 6
    assert "allowOverwrite" in caught.value.hint
    assert "bucketModelPath" in caught.value.hint
    assert read_manifest(delivery.store, MANIFEST) == before
    verify(delivery.store, f"{MODEL}/", before)


def test_allow_overwrite_replaces_what_differs_and_transfers_only_that(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    changed = {path: body for path, body in FILES.items() if path != "tokenizer.json"}
    delivery.hub.add_model("org/tiny", {**changed, "config.json": b"{}", "new.json": b"1"})
    report = delivery.run(allowOverwrite=True).model
    assert report is not None
    assert (report.status, report.transferred_files) == ("replaced", 2)
    manifest = read_manifest(delivery.store, MANIFEST)
    verify(delivery.store, f"{MODEL}/", manifest)
    assert delivery.paths() == [".tuneyard/manifest.json", *(entry.path for entry in manifest.files)]
    assert "tokenizer.json" not in delivery.paths()


def test_while_a_model_is_being_replaced_no_manifest_vouches_for_the_mix(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    delivery.hub.add_model(
        "org/tiny", {**FILES, "config.json": b"{}", "model-1.safetensors": safetensors("a.weight", b"other" * 1000)}
    )
    delivery.hub.faults["model-1.safetensors"] = Fault(flip=7)
    with pytest.raises(IntegrityError):
        delivery.run(allowOverwrite=True)
    with pytest.raises(NotFoundError):
        read_manifest(delivery.store, MANIFEST)
    delivery.hub.faults.clear()
    delivery.run()  # the journal shows an unfinished delivery, so allowOverwrite is not needed
    verify(delivery.store, f"{MODEL}/", read_manifest(delivery.store, MANIFEST))


@pytest.mark.parametrize(
    ("path", "words"), [("model-1.safetensors", "SHA-256 of .model-1"), ("tokenizer.json", "git blob id of .tokenizer")]
)
def test_a_flipped_bit_is_an_integrity_error_and_never_becomes_visible(
    delivery: Delivery, path: str, words: str
) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults[path] = Fault(flip=5)
    with pytest.raises(IntegrityError, match=words) as caught:
        delivery.run()
    assert caught.value.exit_code == 7
    assert path not in delivery.paths()
    assert ".tuneyard/manifest.json" not in delivery.paths()


def test_a_wrong_size_is_an_integrity_error_and_never_becomes_visible(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults["model-1.safetensors"] = Fault(serve=FILES["model-1.safetensors"][:-9])
    with pytest.raises(IntegrityError):
        delivery.run()
    assert "model-1.safetensors" not in delivery.paths()


def test_dropped_connections_cost_no_byte_twice(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults["model-1.safetensors"] = Fault(times=3, drop_after=200_000)
    delivery.run()
    assert delivery.body("model-1.safetensors") == FILES["model-1.safetensors"]
    ranges = [seen.range for seen in delivery.hub.seen if seen.server == "storage" and seen.range]
    assert ranges == ["bytes=200000-", "bytes=400000-", "bytes=600000-"]


def test_files_that_the_manifest_names_and_the_store_lost_are_delivered_again(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    delivery.store.delete([f"{MODEL}/config.json"])
    report = delivery.run().model
    assert report is not None
    assert (report.status, report.transferred_files) == ("delivered", 1)
    verify(delivery.store, f"{MODEL}/", read_manifest(delivery.store, MANIFEST))


def test_a_model_with_only_pickles_is_refused_before_anything_is_written(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", {"config.json": b"{}", "pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(InvalidDataError, match=r"pytorch_model.bin"):
        delivery.run()
    assert delivery.paths() == []


def test_pickles_beside_safetensors_never_reach_the_store(delivery: Delivery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    delivery.hub.add_model("org/tiny", {**FILES, "pytorch_model.bin": b"\x80\x04"})
    delivery.run()
    assert "pytorch_model.bin" not in delivery.paths()
    assert delivery.hub.fetched("pytorch_model.bin") == 0
    assert caplog.text.count("Not delivered from 'org/tiny at ") == 1


def test_a_gated_model_is_denied(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES, gated=True)
    delivery.hub.token = "hf_another"
    with pytest.raises(DeniedError):
        delivery.run()


def test_a_model_comes_from_a_folder_of_this_machine(delivery: Delivery, tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    for path, body in {**FILES, ".git/HEAD": b"ref", ".cache/huggingface/x": b"1"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    (folder / "link.txt").symlink_to(folder / "config.json")
    delivery.run(modelID=str(folder))
    manifest = read_manifest(delivery.store, MANIFEST)
    assert [entry.path for entry in manifest.files] == sorted([*FILES, "link.txt"])
    assert manifest.about["source"] == {"kind": "folder", "folder": "a model"}
    verify(delivery.store, f"{MODEL}/", manifest)
    again = delivery.run(modelID=folder.as_uri().replace("%20", " ")).model
    assert again is not None
    assert again.status == "unchanged"
    (folder / "config.json").write_bytes(b'{"model_type": "lLama"}')  # same size, other bytes
    with pytest.raises(ConflictError, match=r"config.json"):
        delivery.run(modelID=str(folder))


def test_a_missing_folder_is_not_found(delivery: Delivery, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist") as caught:
        delivery.run(modelID=str(tmp_path / "none"))
    assert "organisation/name" in caught.value.hint


def test_a_revision_of_a_folder_is_refused(delivery: Delivery, tmp_path: Path) -> None:
    with pytest.raises(InvalidValuesError, match="modelRevision 'main'"):
        delivery.run(modelID=str(tmp_path), modelRevision="main")


def test_a_model_comes_from_another_bucket_by_its_manifest(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run(bucketModelPath="other-bucket/models/first")
    delivery.store.put("other-bucket/models/first/not-named.txt", b"x")
    delivery.run(modelID="s3://other-bucket/models/first")
    manifest = read_manifest(delivery.store, MANIFEST)
    verify(delivery.store, f"{MODEL}/", manifest)
    assert manifest.content_sha256 == manifest.about["source"]["content_sha256"]
    assert "not-named.txt" not in delivery.paths()


def test_a_model_of_another_bucket_that_is_damaged_there_is_refused(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run(bucketModelPath="other-bucket/models/first")
    delivery.store.put("other-bucket/models/first/config.json", FILES["config.json"].replace(b"l", b"L"))
    with pytest.raises(IntegrityError, match=r"SHA-256 of .config.json"):
        delivery.run(modelID="s3://other-bucket/models/first")
    assert ".tuneyard/manifest.json" not in delivery.paths()


def test_a_finished_run_can_be_delivered_as_a_base(delivery: Delivery) -> None:
    prefix = "default-bucket/experiments/run/checkpoint-final-merged/"
    files = {"config.json": b"{}", "model.safetensors": safetensors("a.weight", b"body")}
    for path, body in files.items():
        delivery.store.put(prefix + path, body)
    entries = [FileEntry(path, len(body), hashlib.sha256(body).hexdigest()) for path, body in files.items()]
    write_manifest(delivery.store, f"{prefix}manifest.json", Manifest("final", tuple(entries)))
    delivery.run(modelID=f"s3://{prefix}")
    assert read_manifest(delivery.store, MANIFEST).files == tuple(entries)


def test_an_empty_place_in_a_bucket_is_not_found(delivery: Delivery) -> None:
    delivery.store.put("other-bucket/x", b"")
    with pytest.raises(NotFoundError, match="nothing to deliver at 'other-bucket/models/none"):
        delivery.run(modelID="s3://other-bucket/models/none")


def test_a_model_is_not_delivered_onto_itself(delivery: Delivery) -> None:
    with pytest.raises(InvalidValuesError, match="onto itself"):
        delivery.run(modelID=f"s3://{MODEL}")


def test_the_same_objects_without_a_manifest_are_taken_over_without_a_transfer(delivery: Delivery) -> None:
    for path, body in FILES.items():
        delivery.store.put(f"{MODEL}/{path}", body)
    delivery.hub.add_model("org/tiny", FILES)
    report = delivery.run().model
    assert report is not None
    assert (report.status, report.transferred_files) == ("delivered", 0)
    verify(delivery.store, f"{MODEL}/", read_manifest(delivery.store, MANIFEST))


def test_other_objects_without_a_manifest_are_never_written_over(delivery: Delivery) -> None:
    delivery.store.put(f"{MODEL}/config.json", b"someone's own")
    delivery.hub.add_model("org/tiny", FILES)
    with pytest.raises(ConflictError, match=r"have no manifest and differ from .org/tiny .*config.json"):
        delivery.run()
    assert delivery.body("config.json") == b"someone's own"
    assert delivery.paths() == ["config.json"]
    report = delivery.run(allowOverwrite=True).model
    assert report is not None
    assert report.status == "replaced"


def test_a_delivery_that_another_one_took_over_stops(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.hub.faults["model-1.safetensors"] = Fault(times=1, hold_after=1000)
    process = delivery.start()
    try:
        assert delivery.hub.holding.wait(300)
        # While the first one still writes its journal, either of the two may be the one that stops.
        delivery.wait_until_done(*(path for path in FILES if path != "model-1.safetensors"))
        delivery.run()
        delivery.hub.release.set()
        assert process.wait(300) == 6
    finally:
        process.kill()
        process.wait()
    verify(delivery.store, f"{MODEL}/", read_manifest(delivery.store, MANIFEST))


@pytest.mark.s3
def test_a_delivery_to_a_real_s3_server_succeeds(delivery_to: Callable[..., Delivery], s3_server: S3Server) -> None:
    model = f"{BUCKET}/deliver-test/tiny"
    delivery = delivery_to(s3_server.open(), **s3_server.env)
    delivery.hub.add_model("org/tiny", FILES)
    result = delivery.process(bucketModelPath=model)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["model"]["status"] == "delivered"
    verify(delivery.store, f"{model}/", read_manifest(delivery.store, f"{model}/.tuneyard/manifest.json"))
    again = delivery.run(bucketModelPath=model).model
    assert again is not None
    assert again.status == "unchanged"
    delivery.hub.add_model("org/tiny", {**FILES, "config.json": b"{}"})
    assert delivery.process(bucketModelPath=model).returncode == 6
    replaced = delivery.run(bucketModelPath=model, allowOverwrite=True).model
    assert replaced is not None
    assert (replaced.status, replaced.transferred_files) == ("replaced", 1)
    other = open_store((delivery.folder / "store").as_uri())
    assert list(other.list("default-bucket/")) == []


def test_no_journal_is_left_after_a_delivery(delivery: Delivery) -> None:
    delivery.hub.add_model("org/tiny", FILES)
    delivery.run()
    with pytest.raises(NotFoundError):
        delivery.store.get(JOURNAL)


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "../model-2/secret", "/proc/self/environ"])
def test_a_link_out_of_its_folder_is_refused_and_nothing_of_it_is_there(
    delivery: Delivery, tmp_path: Path, target: str
) -> None:
    folder = tmp_path / "model"
    (tmp_path / "model-2").mkdir()
    for path in (tmp_path / "secret", tmp_path / "model-2" / "secret"):
        path.write_text("canary")
    folder.mkdir()
    (folder / "config.json").write_bytes(FILES["config.json"])
    (folder / "tokenizer.json").symlink_to(target)
    with pytest.raises(DeniedError, match="is a link out of its folder") as caught:
        delivery.run(modelID=str(folder))
    assert "cp -L" in caught.value.hint
    assert delivery.paths() == []


def test_a_snapshot_of_the_hubs_cache_is_delivered_through_its_links(delivery: Delivery, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--tiny"
    folder = cache / "snapshots" / "abc"
    (cache / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    (cache / "blobs" / "123").write_bytes(FILES["config.json"])
    (folder / "config.json").symlink_to("../../blobs/123")
    delivery.run(modelID=str(folder))
    assert delivery.body("config.json") == FILES["config.json"]


def test_a_file_that_becomes_a_link_while_it_is_delivered_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.jsonl").write_text("{}")
    source = FolderSource(tmp_path / "out")
    (tmp_path / "out" / "a.jsonl").unlink()
    (tmp_path / "out" / "a.jsonl").symlink_to("/etc/passwd")
    with pytest.raises(DeniedError):
        list(source.read(source.files[0]))
