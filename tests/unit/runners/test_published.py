"""Deleting what a run has published, in a real folder store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuneyard.errors import ConflictError, UsageError
from tuneyard.runners import RunInfo
from tuneyard.runners.published import delete_published
from tuneyard.store import open_store

KEYS = ("HEAD", "run.json", "checkpoint-2-1/manifest.json", "checkpoint-2-1/model.safetensors")


def _run(
    folder: Path, status: str = "succeeded", experiment: str | None = "default-bucket/experiments/lora"
) -> RunInfo:
    return RunInfo("finetune", "lora", status, store=folder.as_uri(), experiment=experiment)


def test_deletion_removes_the_experiment_and_nothing_else(tmp_path):
    store = open_store(tmp_path.as_uri())
    for key in KEYS:
        store.put(f"default-bucket/experiments/lora/{key}", b"x")
    store.put("default-bucket/experiments/lora-2/HEAD", b"x")
    assert delete_published(_run(tmp_path)) == len(KEYS)
    assert [entry.key for entry in store.list("default-bucket/experiments/")] == [
        "default-bucket/experiments/lora-2/HEAD"
    ]


def test_an_active_run_keeps_its_data(tmp_path):
    with pytest.raises(ConflictError, match="is still running"):
        delete_published(_run(tmp_path, "running"))


def test_a_run_without_an_experiment_has_no_data(tmp_path):
    with pytest.raises(UsageError, match="no published data"):
        delete_published(_run(tmp_path, experiment=None))
