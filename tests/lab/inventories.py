"""A model, a dataset and a run in a store, written the way Tuneyard writes them, for tests of the inventory."""

from __future__ import annotations

from pathlib import Path

from lab.checkpoints import experiment, make_checkpoint, record
from tuneyard.store import FileEntry, Manifest, Store, hash_file, upload_tree, write_manifest

ABOUT = {"best": None}


def put_model(store: Store, key: str, folder: Path, files: dict[str, bytes]) -> None:
    """Write a model as a delivery does."""
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    entries = upload_tree(store, folder, f"{key}/")
    write_manifest(store, f"{key}/.tuneyard/manifest.json", Manifest(kind="model", files=tuple(entries)))


def put_data(store: Store, key: str, path: Path, body: bytes) -> None:
    """Write a dataset's file as a delivery does."""
    path.write_bytes(body)
    folder, _, name = key.rpartition("/")
    store.write(key, [body])
    digest = hash_file(path)
    manifest = Manifest(kind="dataset", files=(FileEntry(name, digest.size, digest.sha256),))
    write_manifest(store, f"{folder}/.tuneyard/{name}.manifest.json", manifest)


def put_run(store: Store, prefix: str, folder: Path, *steps: int, final: bool = True) -> None:
    """Write what a training run publishes."""
    attempt = experiment(store, prefix).claim(record())
    attempt.begin(None)
    for step in steps:
        attempt.publish(make_checkpoint(folder / f"made-{step}", step), step, ABOUT)
    attempt.write_metrics(b"".join(b'{"step": %d, "loss": 1.0}\n' % step for step in steps))
    if final:
        attempt.publish_final(make_checkpoint(folder / "final", 999), "checkpoint-final", {})
