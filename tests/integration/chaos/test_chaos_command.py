"""`tuneyard chaos` as a user runs it: what it prints and leaves, and its exit code where a store can't be trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tuneyard.errors import IntegrityError

OURS = "default-bucket/models/ours/config.json"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    ours = tmp_path / "store" / OURS
    ours.parent.mkdir(parents=True)
    ours.write_text("{}", encoding="utf-8")
    return tmp_path / "store"


def chaos(store: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tuneyard", "chaos", "--store", store.as_uri(), *words]
    environ = {"PATH": os.environ["PATH"], "HOME": str(store.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ)


def files_in(store: Path) -> list[str]:
    return [path.relative_to(store).as_posix() for path in (store / "default-bucket").rglob("*") if path.is_file()]


def test_on_a_store_that_keeps_its_promises_it_exits_with_0_and_leaves_what_was_there(store: Path):
    done = chaos(store, "--trials", "1", "--seed", "20261126")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("as promised") == 4
    assert "nothing is left below default-bucket/.tuneyard-chaos/" in done.stdout
    assert files_in(store) == [OURS]


def test_where_saved_files_rot_it_exits_with_7_and_names_each_trial(store: Path):
    """Every optimizer state loses its last byte as soon as it lies there."""
    ended = threading.Event()

    def rot() -> None:
        rotten: set[Path] = set()
        while not ended.wait(0.005):
            for path in store.glob("default-bucket/.tuneyard-chaos/*/experiments/request-*/checkpoint-*/optimizer.pt"):
                if path not in rotten:
                    os.truncate(path, path.stat().st_size - 1)
                    rotten.add(path)

    rotting = threading.Thread(target=rot)
    rotting.start()
    try:
        done = chaos(store, "--trials", "3", "--seed", "20261126", "--json")
    finally:
        ended.set()
        rotting.join()
    assert done.returncode == IntegrityError.exit_code, done.stderr
    outcomes = {outcome["kind"]: outcome for outcome in json.loads(done.stdout)["outcomes"]}
    wrong = outcomes["kill -9 after a store request"]["wrong"]
    assert wrong
    assert all(sentence.startswith("killed after store request ") for sentence in wrong)
    assert outcomes["kill -9 at a random moment"]["wrong"] == []
    assert f"error: {wrong[0].rstrip('.')}" in done.stderr
    assert "hint: See whether the store keeps its promises: tuneyard doctor store" in done.stderr
    assert files_in(store) == [OURS]
