"""The trials themselves: they fail where a store loses bytes, and leave nothing behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lab.chaos.kills import kill_after_requests, reference
from lab.chaos.outcome import Outcome
from lab.chaos.testbed import FOLDER, Testbed, open_testbed

USERS_KEY = "default-bucket/models/users/config.json"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    users = tmp_path / "store" / USERS_KEY
    users.parent.mkdir(parents=True)
    users.write_text("{}", encoding="utf-8")
    return tmp_path / "store"


def files_in(store: Path) -> list[str]:
    return [path.relative_to(store).as_posix() for path in (store / "default-bucket").rglob("*") if path.is_file()]


def kill(testbed: Testbed) -> Outcome:
    expected = reference(testbed)
    middle = expected.requests // 2
    return Outcome.of(kill_after_requests(testbed, expected, [middle, expected.requests]))


def test_trials_pass_on_a_sound_store_and_leave_only_what_was_there(store, fork_server):
    environ = {"PATH": os.environ["PATH"]}
    with open_testbed(store.as_uri(), "default-bucket", environ, fork_server()) as testbed:
        outcome = kill(testbed)
        assert len(files_in(store)) > 1
    assert outcome.failures == ()
    assert outcome.resumed == outcome.bit_equal == 2
    assert files_in(store) == [USERS_KEY]


def test_trials_fail_where_published_files_lose_bytes(store, fork_server):
    """Every optimizer state loses its last byte as soon as it is visible."""
    ended = threading.Event()

    def corrupt() -> None:
        corrupted: set[Path] = set()
        while not ended.wait(0.005):
            for path in store.glob(f"default-bucket/{FOLDER}/*/experiments/request-*/checkpoint-*/optimizer.pt"):
                if path not in corrupted:
                    os.truncate(path, path.stat().st_size - 1)
                    corrupted.add(path)

    corrupting = threading.Thread(target=corrupt)
    with open_testbed(store.as_uri(), "default-bucket", {"PATH": os.environ["PATH"]}, fork_server()) as testbed:
        corrupting.start()
        try:
            outcome = kill(testbed)
        finally:
            ended.set()
            corrupting.join()
    assert outcome.failures
    assert all(sentence.startswith("killed after store request ") for sentence in outcome.failures)
    assert files_in(store) == [USERS_KEY]
