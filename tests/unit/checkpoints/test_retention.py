"""Pruning: which objects are deleted, which never are, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.checkpoints import (
    PREFIX,
    experiment,
    is_checkpoint_of,
    make_checkpoint,
    no_damage,
    publish_steps,
    record,
)
from lab.faulty_store import FaultyStore
from tuneyard.checkpoints import CheckpointRef, RetentionPolicy
from tuneyard.checkpoints.retention import to_prune
from tuneyard.store import Store

REFS = st.builds(CheckpointRef.at, st.just(PREFIX), st.integers(0, 40), st.integers(1, 4))


@given(
    committed=st.sets(REFS, max_size=20),
    keep=st.none() | st.integers(-1, 6),
    protected=st.sets(REFS, max_size=3),
    attempt=st.integers(1, 4),
)
def test_the_newest_the_protected_and_later_attempts_are_always_kept(
    committed: set[CheckpointRef], keep: int | None, protected: set[CheckpointRef], attempt: int
) -> None:
    doomed = to_prune(RetentionPolicy(keep=keep), committed, protected=protected, attempt=attempt)
    assert doomed == sorted(set(doomed))
    assert set(doomed) <= committed - protected
    assert all(ref.attempt <= attempt for ref in doomed)
    newest_first = sorted(committed, reverse=True)
    assert not set(doomed) & set(newest_first[: max(1, keep or 1)])
    if keep is None:
        assert doomed == []
    else:
        may_go = [r for r in newest_first[max(1, keep) :] if r not in protected and r.attempt <= attempt]
        assert set(doomed) == set(may_go)


def test_the_bucket_keeps_the_newest_and_the_best_alone(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    for step, best in ((10, 10), (20, 20), (30, 20), (40, 20), (50, 20)):
        attempt.publish(make_checkpoint(tmp_path / f"{step}", step), step, {"best": best})
    assert [ref.step for ref in attempt.prune(RetentionPolicy(keep=2))] == [10, 30]
    lying = {info.key.split("/")[3] for info in store.list(f"{PREFIX}/checkpoint-10-1/")}
    lying |= {info.key.split("/")[3] for info in store.list(f"{PREFIX}/") if "/checkpoint-" in info.key}
    assert lying == {"checkpoint-20-1", "checkpoint-40-1", "checkpoint-50-1"}
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.best is not None
    assert is_checkpoint_of(restored.best, 20)


def test_the_best_of_a_kept_older_checkpoint_is_kept_with_it(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    for step, best in ((10, 10), (20, 10), (30, 30)):
        attempt.publish(make_checkpoint(tmp_path / f"{step}", step), step, {"best": best})
    assert attempt.prune(RetentionPolicy(keep=2)) == []
    attempt.publish(make_checkpoint(tmp_path / "40", 40), 40, {"best": 30})
    assert [ref.step for ref in attempt.prune(RetentionPolicy(keep=2))] == [10, 20]


def test_a_manifest_is_deleted_before_its_files(store: Store, tmp_path: Path) -> None:
    deleted: list[str] = []
    watched = FaultyStore(store, before=lambda verb, key: deleted.append(key) if verb == "delete" else None)
    attempt = experiment(watched).claim(record())
    for step in (10, 20):
        attempt.publish(make_checkpoint(tmp_path / f"{step}", step), step, {"best": None})
    attempt.prune(RetentionPolicy(keep=1))
    assert deleted[0] == f"{PREFIX}/checkpoint-10-1/manifest.json"
    assert len(deleted) == 7


@pytest.mark.parametrize("keep", [None, 5])
def test_leftovers_of_an_ended_attempt_are_deleted(store: Store, tmp_path: Path, keep: int | None) -> None:
    publish_steps(store, tmp_path, 10)
    store.put(f"{PREFIX}/checkpoint-20-1/optimizer.pt", b"half")
    store.put(f"{PREFIX}/checkpoint-final/model.safetensors", b"not a checkpoint")
    store.put(f"{PREFIX}/notes.txt", b"of somebody")
    attempt = experiment(store).claim(record())
    store.put(f"{PREFIX}/checkpoint-20-9/optimizer.pt", b"of a later attempt")
    assert attempt.prune(RetentionPolicy(keep=keep)) == []
    left = {info.key.removeprefix(f"{PREFIX}/") for info in store.list(f"{PREFIX}/")}
    assert "checkpoint-20-1/optimizer.pt" not in left
    assert {"checkpoint-20-9/optimizer.pt", "checkpoint-final/model.safetensors", "notes.txt"} <= left
    assert "checkpoint-10-1/manifest.json" in left


def test_superseded_checkpoints_are_deleted_where_any_are(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    attempt = experiment(store).claim(record())
    attempt.begin(CheckpointRef.at(PREFIX, 10, 1))
    attempt.publish(make_checkpoint(tmp_path / "15", 15), 15, {"best": None})
    assert attempt.prune(RetentionPolicy(keep=None)) == []
    assert attempt.prune(RetentionPolicy(keep=5)) == [CheckpointRef.at(PREFIX, 20, 1)]
    assert [ref.name for ref in experiment(store).committed()] == ["checkpoint-15-2", "checkpoint-10-1"]
