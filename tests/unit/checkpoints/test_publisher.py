"""Publishing in the background: the training goes on, learns of every error, and loses nothing in order."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lab.checkpoints import PREFIX, experiment, is_checkpoint_of, make_checkpoint, no_damage, record
from lab.faulty_store import FaultyStore
from tuneyard.checkpoints import EVENTS_FOLDER, CheckpointRef, EventFiles, MetricsLog, Publisher, RetentionPolicy
from tuneyard.errors import DeniedError, IntegrityError, LostOwnershipError, UnavailableError
from tuneyard.store import Store

KEEP_ALL = RetentionPolicy(keep=None)
SECONDS = 300.0


class Gate:
    """Holds every upload until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, verb: str, _key: str) -> None:
        if verb == "write":
            self.reached.set()
            assert self.opened.wait(SECONDS)


def test_submit_returns_while_the_store_is_still_busy(store: Store, tmp_path: Path) -> None:
    gate = Gate()
    attempt = experiment(FaultyStore(store, before=gate)).claim(record())
    folder = make_checkpoint(tmp_path / "10", 10)
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(folder, 10, {"best": None})
        assert gate.reached.wait(SECONDS)
        assert publisher.pending == {folder}
        assert experiment(store).committed() == []
        gate.opened.set()
        publisher.flush(timeout_seconds=SECONDS)
        assert publisher.pending == frozenset()
        assert [ref.step for ref in experiment(store).committed()] == [10]


def test_a_commit_is_awaited(store: Store, tmp_path: Path) -> None:
    gate = Gate()
    attempt = experiment(FaultyStore(store, before=gate)).claim(record())
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        assert publisher.await_commit(timeout_seconds=0)
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        assert gate.reached.wait(SECONDS)
        assert not publisher.await_commit(timeout_seconds=0.05)
        gate.opened.set()
        assert publisher.await_commit(timeout_seconds=SECONDS)
        assert [ref.step for ref in experiment(store).committed()] == [10]


def test_a_commit_is_not_awaited_while_the_store_is_unreachable(store: Store, tmp_path: Path) -> None:
    away = threading.Event()
    away.set()

    def refuse(verb: str, _key: str) -> None:
        if verb == "write" and away.is_set():
            raise UnavailableError("The store is away.")

    attempt = experiment(FaultyStore(store, before=refuse)).claim(record())
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        assert publisher.await_commit(timeout_seconds=SECONDS)
        assert experiment(store).committed() == []
        away.clear()
        publisher.flush(timeout_seconds=SECONDS)
        assert [ref.step for ref in experiment(store).committed()] == [10]


def test_await_commit_raises_the_error_that_ended_publishing(store: Store, tmp_path: Path) -> None:
    def deny(verb: str, _key: str) -> None:
        if verb == "write":
            raise DeniedError("no")

    attempt = experiment(FaultyStore(store, before=deny)).claim(record())
    with pytest.raises(DeniedError), Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        while not publisher.await_commit(timeout_seconds=0.05):
            pass


def test_leaving_the_block_waits_for_what_was_submitted(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    assert [ref.step for ref in experiment(store).committed()] == [10]


def test_a_waiting_checkpoint_is_dropped_for_a_newer_one_unless_it_is_the_best(store: Store, tmp_path: Path) -> None:
    gate = Gate()
    released: list[tuple[str, CheckpointRef | None]] = []
    attempt = experiment(FaultyStore(store, before=gate)).claim(record())
    with Publisher(
        attempt, retention=KEEP_ALL, on_published=lambda folder, ref: released.append((folder.name, ref))
    ) as publisher:
        for step, best in ((10, 10), (20, 20), (30, 20), (40, 20)):
            publisher.submit(make_checkpoint(tmp_path / f"{step}", step), step, {"best": best})
            assert gate.reached.wait(SECONDS)
        assert released == [("30", None)]
        gate.opened.set()
        publisher.flush(timeout_seconds=SECONDS)
    published = [(name, ref.step if ref else None) for name, ref in released]
    assert published == [("30", None), ("10", 10), ("20", 20), ("40", 40)]
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref.step == 40
    assert restored.best is not None
    assert is_checkpoint_of(restored.best, 20)


def test_an_unreachable_store_is_retried_while_training_continues(store: Store, tmp_path: Path) -> None:
    failures = iter(range(3))

    def fail_thrice(verb: str, _key: str) -> None:
        if verb == "write" and next(failures, None) is not None:
            raise UnavailableError("not now")

    attempt = experiment(FaultyStore(store, before=fail_thrice)).claim(record())
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        publisher.check()
        publisher.flush(timeout_seconds=SECONDS)
    assert [ref.step for ref in experiment(store).committed()] == [10]


def test_an_unreachable_store_is_reported_when_patience_ends(store: Store, tmp_path: Path) -> None:
    def refuse(verb: str, _key: str) -> None:
        if verb == "write":
            raise UnavailableError("The store is away.")

    attempt = experiment(FaultyStore(store, before=refuse)).claim(record())
    with (
        pytest.raises(UnavailableError, match="The store is away") as caught,
        Publisher(attempt, retention=KEEP_ALL, patience_seconds=0) as publisher,
    ):
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        publisher.flush(timeout_seconds=SECONDS)
    assert caught.value.exit_code == 8


def test_a_flush_that_takes_too_long_names_what_is_not_published(store: Store, tmp_path: Path) -> None:
    gate = Gate()
    attempt = experiment(FaultyStore(store, before=gate)).claim(record())
    with Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "checkpoint-10", 10), 10, {"best": None})
        with pytest.raises(
            UnavailableError, match=rf".checkpoint-10. could not be published under .{PREFIX}. within 0 s"
        ):
            publisher.flush(timeout_seconds=0.05)
        gate.opened.set()


def test_leaving_by_an_exception_stops_retrying_an_unreachable_store(store: Store, tmp_path: Path) -> None:
    reached = threading.Event()

    def refuse(verb: str, _key: str) -> None:
        if verb == "write":
            reached.set()
            raise UnavailableError("not now")

    attempt = experiment(FaultyStore(store, before=refuse)).claim(record())
    with (
        pytest.raises(KeyboardInterrupt),
        Publisher(attempt, retention=KEEP_ALL, patience_seconds=10 * SECONDS) as publisher,
    ):
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        assert reached.wait(SECONDS)
        raise KeyboardInterrupt


def test_check_raises_when_the_run_was_taken_over(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    experiment(store).claim(record())
    publisher = Publisher(attempt, retention=KEEP_ALL)
    publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    with pytest.raises(LostOwnershipError):
        publisher.flush(timeout_seconds=SECONDS)
    for poll in (publisher.check, publisher.metrics_changed):
        with pytest.raises(LostOwnershipError):
            poll()
    with pytest.raises(LostOwnershipError):
        publisher.submit(tmp_path / "10", 20, {"best": None})
    with pytest.raises(LostOwnershipError), publisher:
        pass


def test_denied_is_not_retried(store: Store, tmp_path: Path) -> None:
    tries: list[str] = []

    def deny(verb: str, key: str) -> None:
        if verb == "create" and key.endswith("manifest.json"):
            tries.append(key)
            raise DeniedError("not you")

    attempt = experiment(FaultyStore(store, before=deny)).claim(record())
    with pytest.raises(DeniedError), Publisher(attempt, retention=KEEP_ALL) as publisher:
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
    assert len(tries) == 1


def test_a_missing_folder_is_reported(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    with (
        pytest.raises(IntegrityError, match="checkpoint-10' lacks"),
        Publisher(attempt, retention=KEEP_ALL) as publisher,
    ):
        publisher.submit(tmp_path / "checkpoint-10", 10, {"best": None})


def test_pruning_follows_each_checkpoint(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    with Publisher(attempt, retention=RetentionPolicy(keep=1)) as publisher:
        for step in (10, 20, 30):
            publisher.submit(make_checkpoint(tmp_path / f"{step}", step), step, {"best": 10})
            publisher.flush(timeout_seconds=SECONDS)
    assert [ref.step for ref in experiment(store).committed()] == [30, 10]


def test_metrics_are_published_before_their_checkpoint(store: Store, tmp_path: Path) -> None:
    order: list[str] = []

    def note(verb: str, key: str) -> None:
        if verb in {"create", "replace"}:
            order.append(key.removeprefix(f"{PREFIX}/"))

    attempt = experiment(FaultyStore(store, after=note)).claim(record())
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    with Publisher(attempt, retention=KEEP_ALL, metrics=metrics) as publisher:
        order.clear()
        metrics.append({"step": 10, "loss": 1.5})
        publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
        publisher.flush(timeout_seconds=SECONDS)
    assert order == ["metrics.jsonl", "checkpoint-10-1/manifest.json", "HEAD"]
    assert experiment(store).read_metrics() == b'{"step": 10, "loss": 1.5}\n'


def test_metrics_are_published_without_a_checkpoint_and_not_for_every_row(store: Store, tmp_path: Path) -> None:
    written: list[str] = []

    def note(verb: str, key: str) -> None:
        if key.endswith("metrics.jsonl") and verb in {"create", "replace"}:
            written.append(key)

    attempt = experiment(FaultyStore(store, after=note)).claim(record())
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    with Publisher(attempt, retention=KEEP_ALL, metrics=metrics) as publisher:
        for step in range(1, 201):
            metrics.append({"step": step})
            publisher.metrics_changed()
        publisher.flush(timeout_seconds=SECONDS)
    assert experiment(store).read_metrics() == metrics.snapshot()
    assert len(metrics.rows()) == 200
    assert 1 <= len(written) < 100


def test_events_are_published_as_they_grow_and_only_those_of_the_attempt(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    files = EventFiles(tmp_path, attempt.number)
    earlier, own = tmp_path / "events.attempt-0", tmp_path / f"events{files.suffix}"
    earlier.write_bytes(b"earlier")
    with Publisher(attempt, retention=KEEP_ALL, events=files) as publisher:
        for body in (b"one", b"one two"):
            own.write_bytes(body)
            publisher.flush(timeout_seconds=SECONDS)
            assert store.get(f"{PREFIX}/{EVENTS_FOLDER}/{own.name}").body == body
    assert [info.key for info in store.list(f"{PREFIX}/{EVENTS_FOLDER}/")] == [f"{PREFIX}/{EVENTS_FOLDER}/{own.name}"]


def test_an_attempt_that_was_taken_over_publishes_no_events(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    files = EventFiles(tmp_path, attempt.number)
    (tmp_path / f"events{files.suffix}").write_bytes(b"late")
    experiment(store).claim(record())
    with pytest.raises(LostOwnershipError), Publisher(attempt, retention=KEEP_ALL, events=files) as publisher:
        publisher.flush(timeout_seconds=SECONDS)
    assert not list(store.list(f"{PREFIX}/{EVENTS_FOLDER}/"))


def test_an_error_in_the_block_leaves_the_last_metrics_and_events(store: Store, tmp_path: Path) -> None:
    attempt = experiment(store).claim(record())
    metrics, files = MetricsLog(tmp_path / "metrics.jsonl"), EventFiles(tmp_path, attempt.number)
    own = tmp_path / f"events{files.suffix}"
    with (
        pytest.raises(ZeroDivisionError),
        Publisher(attempt, retention=KEEP_ALL, metrics=metrics, events=files) as publisher,
    ):
        for step in (1, 2):
            metrics.append({"step": step})
            own.write_bytes(b"event" * step)
            publisher.metrics_changed()
            if step == 1:
                publisher.flush(timeout_seconds=SECONDS)
        raise ZeroDivisionError
    assert experiment(store).read_metrics() == metrics.snapshot()
    assert store.get(f"{PREFIX}/{EVENTS_FOLDER}/{own.name}").body == own.read_bytes()
