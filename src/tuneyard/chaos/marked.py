"""Checkpoints of some kilobytes that tell their writer and step: for trials of the protocol alone, without training."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from tuneyard.checkpoints import RunRecord
from tuneyard.store import Store, read_manifest

_SIZES = {"model.safetensors": 40_000, "optimizer.pt": 80_000, "rng_state.pth": 5_000, "trainer_state.json": 900}


def content(writer: str, step: int, name: str) -> bytes:
    """Give the bytes that only this writer's file of this step has."""
    seed = hashlib.sha256(f"{writer} {step} {name}".encode()).digest()
    return (seed * (_SIZES[name] // len(seed) + 1))[: _SIZES[name]]


def make(folder: Path, writer: str, step: int) -> Path:
    """Write a checkpoint's files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _SIZES:
        (folder / name).write_bytes(content(writer, step, name))
    return folder


def mixed(store: Store, key: str, writer: str, step: int) -> str:
    """Tell what of a committed checkpoint or final is not this writer's; empty where all of it is.

    Args:
        store: Where it lies.
        key: Its key.
        writer: Who has published it.
        step: Of which step.
    """
    manifest = read_manifest(store, f"{key}/manifest.json")
    if {entry.path for entry in manifest.files} != set(_SIZES):
        return f"{key} has other files than were published"
    for name in _SIZES:
        if store.get(f"{key}/{name}").body != content(writer, step, name):
            return f"{key}/{name} is not what {writer} published for step {step}"
    return ""


def record() -> RunRecord:
    """Make the record that these trials claim an experiment with."""
    return RunRecord(name="chaos", values={}, values_sha256="0" * 64, versions={}, inputs={}, fingerprint={})
