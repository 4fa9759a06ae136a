"""`checkpoint-final` has no attempt's number in its key: an attempt that was overtaken leaves its successor's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.checkpoints import PREFIX, WRITES, experiment, make_checkpoint, record
from lab.faulty_store import FaultyStore
from tuneyard.checkpoints import Attempt
from tuneyard.errors import ConflictError, NotFoundError
from tuneyard.store import Store

FINAL = f"{PREFIX}/checkpoint-final"
MANIFEST = f"{FINAL}/manifest.json"
EXTRA = "only of the newer.json"
CALLS = range(1, 40)


def body(store: Store, key: str) -> bytes | None:
    try:
        return store.get(key).body
    except NotFoundError:
        return None


class Overtaken:
    """An attempt that publishes its final model, and is overtaken before its k-th call to the store.

    Args:
        store: The store.
        folder: Where files are made.
        at: Which call.
        publishes: Whether the newer attempt has published its own final model by then.
    """

    def __init__(self, store: Store, folder: Path, at: int, *, publishes: bool) -> None:
        self._store, self._folder, self._at, self._publishes = store, folder, at, publishes
        self.calls: list[str] = []
        self.newer: Attempt | None = None
        self.manifest: bytes | None = None
        self.files: set[str] = set()
        self._armed = False
        self.older = experiment(FaultyStore(store, before=self._called)).claim(record())
        self._armed = True

    def publish(self) -> bool:
        """Let the older attempt publish; return whether it found out that it was overtaken."""
        folder = make_checkpoint(self._folder / "older", 1)
        try:
            self.older.publish_final(folder, "checkpoint-final", {})
        except ConflictError:
            return True
        return False

    def _called(self, verb: str, key: str) -> None:
        if not self._armed:
            return
        self.calls.append(f"{verb} {key}")
        if len(self.calls) != self._at:
            return
        self.newer = experiment(self._store).claim(record())
        if self._publishes:
            folder = make_checkpoint(self._folder / "newer", 2)
            (folder / EXTRA).write_bytes(b"{}")
            self.newer.publish_final(folder, "checkpoint-final", {})
        self.manifest = body(self._store, MANIFEST)
        self.files = {info.key for info in self._store.list(f"{FINAL}/")}


# No store can detect a change of owner between the last check of it and the call that it was checked for.
ASKED_FOR = (f"delete {MANIFEST}", f"create {MANIFEST}")


@pytest.mark.parametrize("call", CALLS)
def test_an_attempt_overtaken_by_a_claim_commits_no_final_model(store: Store, tmp_path: Path, call: int) -> None:
    made = Overtaken(store, tmp_path, call, publishes=False)
    refused = made.publish()
    assert refused == (made.newer is not None), made.calls
    if made.newer is None:
        return
    head = experiment(store).head()
    assert head is not None
    assert (head.attempt, head.finished) == (2, False)
    if made.calls[call - 1] not in ASKED_FOR:
        # the manifest that was there at that moment, or none; never one that came after it
        assert body(store, MANIFEST) == made.manifest, made.calls[call - 1]


@pytest.mark.parametrize("call", CALLS)
def test_an_attempt_overtaken_by_a_published_final_model_leaves_it_in_place(
    store: Store, tmp_path: Path, call: int
) -> None:
    made = Overtaken(store, tmp_path, call, publishes=True)
    refused = made.publish()
    assert refused == (made.newer is not None), made.calls
    if made.newer is None:
        return
    where = made.calls[call - 1]
    left = {info.key for info in store.list(f"{FINAL}/")}
    if where == ASKED_FOR[0]:
        assert left == made.files - {MANIFEST}
    else:
        assert left >= made.files, where
        assert body(store, MANIFEST) == made.manifest, where


@pytest.mark.parametrize("call", CALLS)
def test_a_successors_files_stay_when_earlier_ones_are_deleted(store: Store, tmp_path: Path, call: int) -> None:
    """An earlier attempt has left a file that the older one's model lacks and its successor's has again."""
    folder = make_checkpoint(tmp_path / "first", 0)
    (folder / EXTRA).write_bytes(b"{}")
    experiment(store).claim(record()).publish_final(folder, "checkpoint-final", {})
    made = Overtaken(store, tmp_path, call, publishes=True)
    made.publish()
    if made.newer and made.calls[call - 1] != f"delete {FINAL}/{EXTRA}":  # the moment after the question, as above
        assert f"{FINAL}/{EXTRA}" in {info.key for info in store.list(f"{FINAL}/")}, made.calls[call - 1]


def test_an_attempt_that_was_overtaken_before_touches_nothing_of_the_final_model(store: Store, tmp_path: Path) -> None:
    made = Overtaken(store, tmp_path, 1, publishes=True)
    assert made.publish()
    assert [call for call in made.calls if call.split()[0] in WRITES] == []


def test_the_calls_of_a_final_publish_are_covered_by_the_tests_above(store: Store, tmp_path: Path) -> None:
    made = Overtaken(store, tmp_path, 0, publishes=False)
    assert not made.publish()
    assert 15 < len(made.calls) < CALLS[-1], made.calls
