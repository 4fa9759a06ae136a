"""Checkpoint folders for tests: files as a trainer writes them, with bytes unique to their writer and step."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tuneyard.checkpoints import Experiment, RunRecord
from tuneyard.store import Store, read_manifest

PREFIX = "bucket/experiments/run"
FILES = {
    "model.safetensors": 40_000,
    "optimizer.pt": 80_000,
    "scheduler.pt": 500,
    "rng_state.pth": 5_000,
    "trainer_state.json": 900,
    "extra/tokenizer.json": 300,
}
REQUIRED = frozenset({"optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json"})
WRITES = ("put", "create", "replace", "delete", "write")


def content(step: int, name: str, *, writer: str = "a", scale: float = 1.0) -> bytes:
    """Return bytes that no other writer, step or file has."""
    seed = hashlib.sha256(f"{writer} {step} {name}".encode()).digest()
    size = int(FILES[name] * scale)
    return (seed * (size // len(seed) + 1))[:size]


def make_checkpoint(folder: Path, step: int, *, writer: str = "a", scale: float = 1.0) -> Path:
    """Write the files of a checkpoint, as a trainer has them after that step."""
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(step, name, writer=writer, scale=scale))
    return folder


def is_checkpoint_of(folder: Path, step: int, *, scale: float = 1.0) -> bool:
    """Return whether a folder holds exactly what `make_checkpoint` wrote for that step."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found == {name: content(step, name, scale=scale) for name in FILES}


def difference(store: Store, key: str, step: int, *, writer: str) -> str:
    """Describe how a published checkpoint differs from the one that a writer made; empty where it does not.

    Args:
        store: The store.
        key: The checkpoint's key.
        step: The step that it was published for.
        writer: The writer that published it.
    """
    manifest = read_manifest(store, f"{key}/manifest.json")
    if {entry.path for entry in manifest.files} != set(FILES):
        return f"{key} has other files than were published"
    for name in FILES:
        if store.get(f"{key}/{name}").body != content(step, name, writer=writer):
            return f"{key}/{name} is not what writer {writer} published for step {step}"
    return ""


def record(**fingerprint: Any) -> RunRecord:
    """Return a run record with this fingerprint."""
    return RunRecord(
        name="run",
        values={"method": "sft"},
        values_sha256="0" * 64,
        versions={"tuneyard": "0"},
        inputs={"bucket/models/tiny": "1" * 64},
        fingerprint=fingerprint,
    )


def experiment(store: Store, prefix: str = PREFIX) -> Experiment:
    return Experiment(store, prefix, required=REQUIRED)


def no_damage(sentence: str) -> None:
    raise AssertionError(f"unexpected damage: {sentence}")


def publish_steps(store: Store, folder: Path, *steps: int) -> None:
    """Publish these steps in one attempt of their own."""
    attempt = experiment(store).claim(record())
    restored = experiment(store).restore(folder / "restored", on_damage=no_damage)
    attempt.begin(restored.ref if restored else None)
    for step in steps:
        attempt.publish(make_checkpoint(folder / f"made-{step}", step), step, {"best": None})
