"""Journals and manifests that somebody else wrote into the bucket steer nothing outside the delivery's own place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.deliveries import safetensors
from tuneyard.delivery import DeliverReport, deliver, find_dataset
from tuneyard.delivery.datasets import script_sha256
from tuneyard.delivery.journal import read_journal
from tuneyard.errors import ConflictError, IntegrityError
from tuneyard.store import FileEntry, Manifest, Store, open_store, read_manifest
from tuneyard.values import DeliverValues

MODEL = "default-bucket/models/tiny"
DATA = "default-bucket/datasets"
OTHERS = (
    "other-bucket/private/weights.safetensors",
    "default-bucket/models/tiny-2/model.safetensors",
    "default-bucket/models/other.txt",
    "default-bucket/experiments/run/HEAD",
    f"{MODEL}/.tuneyard/notes",
    f"{DATA}/other.jsonl",
    f"{DATA}/.tuneyard/other.jsonl.manifest.json",
)
BODY = b"somebody else's"
TRICKS = (f"{MODEL}/../tiny-2/model.safetensors", f"{MODEL}//x", "../../etc/passwd", "", "other-bucket", f"{MODEL}/")
SCRIPT = "open('/downloads/datasets/own.jsonl', 'w').write('{}')"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store((tmp_path / "store").as_uri())
    for key in OTHERS:
        store.put(key, BODY)
    return store


def deliver_model(store: Store, folder: Path, **more: object) -> DeliverReport:
    source = folder / "source"
    source.mkdir(exist_ok=True)
    (source / "config.json").write_bytes(b"{}")
    (source / "model.safetensors").write_bytes(safetensors("a.weight", b"body"))
    values = {"modelID": str(source), "bucketModelPath": MODEL, **more}
    return deliver(DeliverValues.model_validate(values), store, workdir=folder / "work")


def deliver_data(store: Store, folder: Path, **more: object) -> DeliverReport:
    values = {"dataScript": SCRIPT, "bucketDataDir": DATA, **more}
    return deliver(DeliverValues.model_validate(values), store, workdir=folder / "work")


def journal(stale: object = (), done: object = None) -> bytes:
    return json.dumps({"format": 1, "done": done or {}, "stale": stale}).encode()


def manifest(kind: str, *paths: str, **about: object) -> bytes:
    files = tuple(FileEntry(path, len(BODY), "0" * 64) for path in paths)
    return Manifest(kind=kind, files=files, about=about).to_json()  # pyright: ignore[reportArgumentType]


def others(store: Store) -> set[str]:
    found = {info.key for bucket in ("default-bucket/", "other-bucket/") for info in store.list(bucket)}
    return found & set(OTHERS)


def test_a_planted_journal_of_a_model_deletes_only_below_its_own_place(store: Store, tmp_path: Path) -> None:
    store.put(f"{MODEL}/old.bin", b"left by a delivery")
    held = {"size": 2, "sha256": "0" * 64}
    done = {"../tiny-2/model.safetensors": held, "/etc/passwd": held, "gone.bin": held}
    store.put(f"{MODEL}/gone.bin", b"xx")
    store.put(f"{MODEL}/.tuneyard/delivering.json", journal([*OTHERS, *TRICKS, f"{MODEL}/old.bin"], done))
    assert deliver_model(store, tmp_path).model is not None
    assert others(store) == set(OTHERS)
    names = {info.key.removeprefix(f"{MODEL}/") for info in store.list(f"{MODEL}/")}
    assert names == {"config.json", "model.safetensors", ".tuneyard/manifest.json", ".tuneyard/notes"}


def test_a_planted_journal_of_a_dataset_deletes_nothing_beside_it(store: Store, tmp_path: Path) -> None:
    held = {"size": 15, "sha256": "0" * 64}
    for stale in ([*OTHERS, *TRICKS], f"{DATA}/other.jsonl"):
        store.put(f"{DATA}/.tuneyard/own.jsonl.delivering.json", journal(stale, {"other.jsonl": held}))
        deliver_data(store, tmp_path, allowOverwrite=True)
        assert others(store) == set(OTHERS)


def test_a_planted_manifest_deletes_nothing_of_others(store: Store, tmp_path: Path) -> None:
    store.put(f"{DATA}/.tuneyard/own.jsonl.manifest.json", manifest("dataset", "own.jsonl", "other.jsonl"))
    with pytest.raises(ConflictError):
        deliver_data(store, tmp_path)
    deliver_data(store, tmp_path, allowOverwrite=True)
    store.put(f"{MODEL}/.tuneyard/manifest.json", manifest("model", "config.json", ".tuneyard/notes", "old.bin"))
    store.put(f"{MODEL}/old.bin", b"xx")
    deliver_model(store, tmp_path, allowOverwrite=True)
    assert others(store) == set(OTHERS)
    assert f"{MODEL}/old.bin" not in {info.key for info in store.list(f"{MODEL}/")}


NO_JOURNALS = {
    "deep": b"[" * 100_000,
    "no object": b"7",
    "other sizes": journal(done={"config.json": {"size": "2", "sha256": "0" * 64}}),
    "no hash": journal(done={"config.json": {"size": 2, "sha256": 7}, "model.safetensors": None}),
    "another form of hash": journal(done={"config.json": {"size": 2, "sha256": "x", "version": "git:1"}}),
    "another form of version": journal(done={"config.json": {"size": 2, "sha256": "0" * 64, "version": 5}}),
    "more facts": journal(done={"config.json": {"size": 2, "sha256": "0" * 64, "more": 1}}),
    "a list": journal(done=[1]),
    "no list": journal(stale=7),
    "keys of no kind": journal(stale=[1, None, {}, ["x"]]),
}


@pytest.mark.parametrize("body", NO_JOURNALS.values(), ids=list(NO_JOURNALS))
def test_an_invalid_journal_is_ignored(store: Store, tmp_path: Path, body: bytes) -> None:
    store.put(f"{MODEL}/config.json", b"xx")
    store.put(f"{MODEL}/.tuneyard/delivering.json", body)
    found = read_journal(store, f"{MODEL}/.tuneyard/delivering.json")
    assert found is not None
    assert found.done == {}
    assert deliver_model(store, tmp_path).model is not None
    assert store.get(f"{MODEL}/config.json").body == b"{}"
    assert others(store) == set(OTHERS)


@pytest.mark.parametrize("key", [f"{MODEL}/.tuneyard/manifest.json", f"{DATA}/.tuneyard/own.jsonl.manifest.json"])
def test_a_manifest_that_cannot_be_parsed_is_damage(store: Store, tmp_path: Path, key: str) -> None:
    store.put(key, b"[" * 100_000)
    with pytest.raises(IntegrityError):
        read_manifest(store, key)
    with pytest.raises(IntegrityError):
        deliver_model(store, tmp_path) if key.startswith(MODEL) else deliver_data(store, tmp_path)


@pytest.mark.parametrize("outputs", [["../../other-bucket/x.jsonl"], ["/etc/passwd"], ["own.jsonl", "a//b"], "x", [1]])
def test_planted_outputs_of_a_script_are_not_trusted(store: Store, tmp_path: Path, outputs: object) -> None:
    source = {"kind": "dataScript", "script_sha256": script_sha256(SCRIPT), "outputs": outputs}
    store.put(f"{DATA}/.tuneyard/planted.jsonl.manifest.json", manifest("dataset", "planted.jsonl", source=source))
    report = deliver_data(store, tmp_path)
    assert (report.script, [one.key for one in report.datasets]) == ("run", [f"{DATA}/own.jsonl"])


def test_a_dataset_whose_manifest_names_another_file_is_damaged(store: Store, tmp_path: Path) -> None:
    source = {"kind": "dataScript", "script_sha256": script_sha256(SCRIPT), "outputs": ["own.jsonl"]}
    for paths in (("other.jsonl",), ("own.jsonl", "other.jsonl"), ()):
        body = manifest("dataset", *paths, source=source)
        store.put(f"{DATA}/.tuneyard/own.jsonl.manifest.json", body)
        with pytest.raises(IntegrityError, match=r"does not name .own.jsonl. alone"):
            find_dataset(store, f"{DATA}/own.jsonl")
    store.put(f"{DATA}/.tuneyard/own.jsonl.manifest.json", manifest("dataset", "other.jsonl", source=source))
    with pytest.raises(ConflictError):  # not "delivered before"
        deliver_data(store, tmp_path)
    assert deliver_data(store, tmp_path, allowOverwrite=True).script == "run"


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a\\b", "a\nb", 7, None])
def test_a_manifest_that_leaves_its_place_is_damaged(path: object) -> None:
    document = json.loads(manifest("model", "config.json"))
    document["files"][0]["path"] = path
    with pytest.raises(IntegrityError):
        Manifest.from_json(json.dumps(document).encode(), where="m")
