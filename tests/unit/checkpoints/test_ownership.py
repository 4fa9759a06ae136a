"""Several attempts at one experiment: one owner at a time, and an earlier one can spoil nothing."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

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
from tuneyard.checkpoints import Attempt, CheckpointRef, RetentionPolicy
from tuneyard.errors import ConflictError, LostOwnershipError, UnavailableError
from tuneyard.store import Store


def snapshot(store: Store) -> dict[str, bytes]:
    return {info.key: store.get(info.key).body for info in store.list(f"{PREFIX}/")}


def two_attempts(store: Store, tmp_path: Path) -> tuple[Attempt, Attempt]:
    older = experiment(store).claim(record())
    older.begin(None)
    older.publish(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    newer = experiment(store).claim(record())
    newer.begin(CheckpointRef.at(PREFIX, 10, 1))
    return older, newer


def test_the_older_of_two_attempts_can_write_nothing(store: Store, tmp_path: Path) -> None:
    older, newer = two_attempts(store, tmp_path)
    newer.publish(make_checkpoint(tmp_path / "20", 20), 20, {"best": None})
    newer.publish_final(tmp_path / "20", "checkpoint-final", {})
    newer.write_metrics(b'{"step": 20}\n')
    before = snapshot(store)
    other = make_checkpoint(tmp_path / "other", 30)
    for work in (
        lambda: older.publish(other, 30, {"best": None}),
        lambda: older.publish(other, 20, {"best": None}),
        lambda: older.publish_final(other, "checkpoint-final", {}),
        lambda: older.write_metrics(b""),
        lambda: older.prune(RetentionPolicy(keep=1)),
        lambda: older.begin(None),
        older.check_owner,
    ):
        with pytest.raises(LostOwnershipError, match="Attempt 1 no longer owns") as caught:
            work()
        assert caught.value.exit_code == 6
        assert caught.value.details["owner"] == 2
    assert snapshot(store) == before


@pytest.mark.parametrize("stop_at", range(1, 30))
def test_an_attempt_overtaken_at_any_moment_of_a_publish_damages_nothing(
    store: Store, tmp_path: Path, stop_at: int
) -> None:
    """Before its k-th call to the store, another attempt takes over, publishes, and finishes."""
    calls = 0
    taken: list[Attempt] = []

    def overtake(_verb: str, _key: str) -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at and armed:
            newer = experiment(store).claim(record())
            newer.begin(CheckpointRef.at(PREFIX, 10, 1))
            newer.publish(make_checkpoint(tmp_path / "newer", 15), 15, {"best": None})
            newer.write_metrics(b'{"step": 15}\n')
            taken.append(newer)

    armed = False
    older = experiment(FaultyStore(store, before=overtake)).claim(record())
    older.begin(None)
    older.publish(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    calls, armed = 0, True
    try:
        older.write_metrics(b'{"step": 20}\n')
        older.publish(make_checkpoint(tmp_path / "20", 20), 20, {"best": None})
    except LostOwnershipError:
        assert taken
    else:
        assert not taken, "an attempt that was overtaken has to raise"
        return
    head = experiment(store).head()
    assert head is not None
    assert (head.attempt, head.checkpoint) == (2, CheckpointRef.at(PREFIX, 15, 2))
    assert store.get(f"{PREFIX}/metrics.jsonl").body == b'{"step": 15}\n'
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref == head.checkpoint
    assert is_checkpoint_of(restored.path, 15)


def test_the_number_of_calls_of_a_publish_is_covered_by_the_test_above(store: Store, tmp_path: Path) -> None:
    calls: list[str] = []
    attempt = experiment(FaultyStore(store, before=lambda verb, key: calls.append(f"{verb} {key}"))).claim(record())
    calls.clear()
    attempt.write_metrics(b"")
    attempt.publish(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    assert 15 < len(calls) < 29, calls


def test_a_superseded_checkpoint_is_not_resumed_from(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    late = f"{PREFIX}/checkpoint-20-1/optimizer.pt"
    whole = store.get(late).body
    store.put(late, b"damaged")
    attempt = experiment(store).claim(record())
    restored = experiment(store).restore(tmp_path / "work", on_damage=lambda _: None)
    assert restored is not None
    attempt.begin(restored.ref)
    attempt.publish(make_checkpoint(tmp_path / "15", 15), 15, {"best": None})
    store.put(late, whole)
    assert [ref.name for ref in experiment(store).committed()] == ["checkpoint-15-2", "checkpoint-10-1"]


@pytest.mark.parametrize("writers", [8])
def test_simultaneous_claims_get_different_numbers(store: Store, writers: int) -> None:
    start = threading.Barrier(writers)

    def claim(_: int) -> int:
        start.wait()
        return experiment(store).claim(record(r=8)).number

    with ThreadPoolExecutor(writers) as pool:
        numbers = list(pool.map(claim, range(writers)))
    assert sorted(numbers) == list(range(1, writers + 1))
    head = experiment(store).head()
    assert head is not None
    assert head.attempt == writers


@pytest.mark.soak
def test_simultaneous_claims_get_different_numbers_in_10_rounds_of_32(store: Store) -> None:
    for round_ in range(10):
        start = threading.Barrier(32)

        def claim(_: int, start: threading.Barrier = start) -> int:
            start.wait()
            return experiment(store).claim(record(r=8)).number

        with ThreadPoolExecutor(32) as pool:
            numbers = list(pool.map(claim, range(32)))
        assert sorted(numbers) == list(range(32 * round_ + 1, 32 * round_ + 33))


def test_of_two_first_claims_with_other_settings_one_is_refused(store: Store) -> None:
    start = threading.Barrier(2)

    def claim(rank: int) -> str:
        start.wait()
        try:
            experiment(store).claim(record(r=rank))
        except ConflictError:
            return "refused"
        return "claimed"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(claim, [8, 16])) == ["claimed", "refused"]


def test_other_settings_are_a_conflict_that_names_them(store: Store, tmp_path: Path) -> None:
    settings = {"method": "sft", "peft.r": 8, "data.sha256": "a" * 64, "gone": [1, 2], "same": None}
    experiment(store).claim(record(**settings))
    before = snapshot(store)
    other = {"method": "sft", "peft.r": 16, "data.sha256": "b" * 64, "new": 0.5, "same": None}
    for work in (experiment(store).claim, experiment(store).check):
        with pytest.raises(ConflictError) as caught:
            work(record(**other))
        assert caught.value.exit_code == 6
        assert caught.value.message == (
            f"The experiment '{PREFIX}' was started with different settings: "
            f'data.sha256: "{"a" * 64}" → "{"b" * 64}", gone: [1, 2] → not set, new: not set → 0.5, peft.r: 8 → 16.'
        )
        assert "checkpointsRemote" in caught.value.hint
        assert caught.value.details["differing"]["peft.r"] == (8, 16)
    assert snapshot(store) == before


def test_equal_settings_of_other_python_types_are_no_conflict(store: Store) -> None:
    experiment(store).claim(record(modules=("q", "v"), r=8))
    experiment(store).check(record(r=8, modules=["q", "v"]))
    assert experiment(store).claim(record(r=8, modules=["q", "v"])).number == 2


def test_the_fingerprint_is_known_without_head(store: Store) -> None:
    experiment(store).claim(record(r=8))
    store.delete([f"{PREFIX}/HEAD"])
    with pytest.raises(ConflictError, match="r: 8 → 16"):
        experiment(store).claim(record(r=16))


def test_a_fresh_start_supersedes_earlier_checkpoints(store: Store, tmp_path: Path) -> None:
    publish_steps(store, tmp_path, 10, 20)
    attempt = experiment(store).claim(record(), resume=False)
    assert experiment(store).committed() == []
    assert experiment(store).restore(tmp_path / "work", on_damage=no_damage) is None
    attempt.publish(make_checkpoint(tmp_path / "5", 5), 5, {"best": None})
    assert [ref.name for ref in experiment(store).committed()] == ["checkpoint-5-2"]


def test_no_two_bodies_of_head_are_equal(store: Store, tmp_path: Path) -> None:
    seen: set[bytes] = set()

    def look(verb: str, key: str) -> None:
        if key.endswith("/HEAD") and verb in {"create", "replace"}:
            body = store.get(key).body
            assert body not in seen
            seen.add(body)

    watched = FaultyStore(store, after=look)
    publish_steps(watched, tmp_path, 10, 20)
    publish_steps(watched, tmp_path, 30)
    assert len(seen) == 7


@pytest.mark.parametrize("lost", ["create", "replace", "write"])
def test_a_write_whose_response_was_lost_is_recognised_on_retry(store: Store, tmp_path: Path, lost: str) -> None:
    """Every answer is lost once: the publish has to be tried again, and commits one checkpoint."""
    seen: set[tuple[str, str]] = set()

    def lose_the_answer_once(verb: str, key: str) -> None:
        if armed and verb == lost and (verb, key) not in seen:
            seen.add((verb, key))
            raise UnavailableError("the answer was lost")

    armed = False
    attempt = experiment(FaultyStore(store, after=lose_the_answer_once)).claim(record())
    armed = True
    folder = make_checkpoint(tmp_path / "10", 10)
    for _ in range(20):
        with contextlib.suppress(UnavailableError):
            ref = attempt.publish(folder, 10, {"best": None})
            break
    else:
        pytest.fail("never published")
    assert seen
    assert experiment(store).committed() == [ref]
    assert attempt.check_owner().checkpoint == ref
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)
