"""gc removes objects that no manifest names and never one that a manifest names, whatever happened before."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from lab.checkpoints import experiment, is_checkpoint_of, make_checkpoint, record
from lab.faulty_store import FaultyStore, Killed
from lab.inventories import ABOUT, put_data, put_model, put_run
from tuneyard.checkpoints import Attempt
from tuneyard.inventory import remove_leftovers, take_inventory, verify_place
from tuneyard.store import Manifest, Store, open_store

RUN = "bucket/experiments/run"
NOW = timedelta(0)
LATER = timedelta(days=2)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def _keys(store: Store) -> set[str]:
    return {info.key for info in store.list("bucket/")}


def test_leftovers_of_an_ended_attempt_are_removed_at_once(store: Store, tmp_path: Path):
    put_run(store, RUN, tmp_path, 10, final=False)
    store.put(f"{RUN}/checkpoint-20-1/optimizer.pt", b"half")
    experiment(store, RUN).claim(record())
    before = _keys(store)
    assert remove_leftovers(store, RUN).removed
    assert before - _keys(store) == {f"{RUN}/checkpoint-20-1/optimizer.pt"}


def test_objects_of_the_owning_attempt_are_kept_until_they_are_old(store: Store, tmp_path: Path):
    put_run(store, RUN, tmp_path, 10, final=False)
    half = f"{RUN}/checkpoint-20-1/optimizer.pt"
    store.put(half, b"half")
    assert [one.info.key for one in remove_leftovers(store, RUN).kept] == [half]
    assert half in _keys(store)
    assert remove_leftovers(store, RUN, now=datetime.now(UTC) + LATER).removed
    assert half not in _keys(store)


def test_a_dry_run_removes_nothing(store: Store, tmp_path: Path):
    put_run(store, RUN, tmp_path, 10, final=False)
    store.put(f"{RUN}/checkpoint-10-1/extra.bin", b"unnamed")
    before = _keys(store)
    assert remove_leftovers(store, RUN, grace=NOW, dry_run=True).bytes == len(b"unnamed")
    assert _keys(store) == before


def test_a_delivery_under_way_is_as_young_as_its_journal(store: Store):
    store.put("bucket/models/m/weights.bin", b"w")
    store.put("bucket/models/m/.tuneyard/delivering.json", b"{}")
    assert not remove_leftovers(store, "bucket").removed
    assert len(remove_leftovers(store, "bucket", now=datetime.now(UTC) + LATER).removed) == 2
    assert _keys(store) == set()


def test_files_of_other_people_stay(store: Store, tmp_path: Path):
    put_model(store, "bucket/models/m", tmp_path / "m", {"config.json": b"{}"})
    put_run(store, "bucket/models/m/experiments/run", tmp_path, 10)
    put_data(store, "bucket/datasets/d.jsonl", tmp_path / "d", b"{}\n")
    for key in ("bucket/notes.txt", "bucket/datasets/notes.txt", "bucket/experiments/run/sweep.json"):
        store.put(key, b"mine")
    before = _keys(store)
    assert not remove_leftovers(store, "bucket", grace=NOW).removed
    assert _keys(store) == before


def test_nothing_is_removed_beside_an_unreadable_manifest(store: Store, tmp_path: Path):
    put_run(store, RUN, tmp_path, 10, final=False)
    put_model(store, "bucket/models/m", tmp_path / "m", {"config.json": b"{}"})
    store.put(f"{RUN}/checkpoint-10-1/manifest.json", b"{")
    store.put("bucket/models/m/.tuneyard/manifest.json", b"{")
    before = _keys(store)
    remove_leftovers(store, "bucket", grace=NOW)
    assert _keys(store) == before


PLANTED = {
    "a manifest at the top of a bucket": ("bucket/.tuneyard/manifest.json", True),
    "a journal at the top of a bucket": ("bucket/.tuneyard/delivering.json", False),
    "a journal above experiments": ("bucket/experiments/.tuneyard/delivering.json", False),
    "a manifest above experiments": ("bucket/experiments/.tuneyard/manifest.json", True),
    "a journal in an experiment": (f"{RUN}/.tuneyard/delivering.json", False),
    "a journal of a file that is a folder": ("bucket/.tuneyard/datasets.delivering.json", False),
    "a journal of a file above experiments": ("bucket/x/.tuneyard/experiments.delivering.json", False),
    "a manifest of another kind": ("bucket/datasets/.tuneyard/manifest.json", False),
}


@pytest.mark.parametrize(("planted", "whole"), PLANTED.values(), ids=list(PLANTED))
def test_planted_manifests_make_no_leftovers_of_others(store: Store, tmp_path: Path, planted: str, whole: bool):
    put_run(store, RUN, tmp_path, 10)
    put_data(store, "bucket/datasets/d.jsonl", tmp_path / "d", b"{}\n")
    for key in ("bucket/notes.txt", "bucket/datasets/notes.txt", f"{RUN}/loss.svg", f"{RUN}/events/x"):
        store.put(key, b"mine")
    before = _keys(store)
    kind = "model" if whole else "dataset"
    store.put(planted, Manifest(kind=kind, files=()).to_json())
    for place in ("bucket", "bucket/experiments", RUN, "bucket/datasets"):
        remove_leftovers(store, place, grace=NOW, now=datetime.now(UTC) + LATER)
    assert before - _keys(store) == set()


class _Machine(RuleBasedStateMachine):
    """Runs, models and data that come, half-come, are taken over and are cleaned up in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._room = tempfile.TemporaryDirectory()
        self._folder = Path(self._room.name)
        self._store = open_store((self._folder / "store").as_uri())
        self._made = 0
        self._attempts: dict[str, Attempt] = {}
        self._steps: dict[str, int] = {}
        self._committed: dict[str, tuple[str, int]] = {}
        self._others: dict[str, bytes] = {}

    def teardown(self) -> None:
        self._room.cleanup()

    def _fresh(self) -> Path:
        self._made += 1
        return self._folder / f"made-{self._made}"

    def _attempt(self, run: str, store: Store | None = None) -> Attempt:
        if run not in self._attempts or store:
            lab = experiment(store or self._store, run)
            attempt = lab.claim(record())
            newest = next(iter(lab.committed()), None)
            attempt.begin(newest)
            self._attempts[run] = attempt
        return self._attempts[run]

    runs = st.sampled_from([f"bucket/experiments/{name}" for name in "ab"])

    @rule(run=runs)
    def publish(self, run: str) -> None:
        attempt = self._attempt(run)
        step = self._steps[run] = self._steps.get(run, 0) + 1
        ref = attempt.publish(make_checkpoint(self._fresh(), step, scale=0.01), step, ABOUT)
        self._committed[ref.key] = (run, step)

    @rule(run=runs, writes=st.integers(0, 9))
    def die_while_publishing(self, run: str, writes: int) -> None:
        self._attempt(run)
        left = writes

        def before(verb: str, key: str) -> None:
            nonlocal left
            if verb in ("write", "create", "put", "replace") and "/checkpoint-" in key:
                if left == 0:
                    raise Killed
                left -= 1

        attempt = self._attempt(run, FaultyStore(self._store, before=before))
        step = self._steps[run] = self._steps.get(run, 0) + 1
        try:
            ref = attempt.publish(make_checkpoint(self._fresh(), step, scale=0.01), step, ABOUT)
            self._committed[ref.key] = (run, step)
        except Killed:
            pass
        del self._attempts[run]

    @rule(run=runs)
    def take_over(self, run: str) -> None:
        self._attempts.pop(run, None)
        self._attempt(run)

    @rule(run=runs)
    def finish(self, run: str) -> None:
        step = self._steps.get(run, 0)
        self._attempt(run).publish_final(make_checkpoint(self._fresh(), step, scale=0.01), "checkpoint-final", {})
        self._committed[f"{run}/checkpoint-final"] = (run, step)

    @rule(name=st.sampled_from("xyz"), journal=st.booleans())
    def deliver(self, name: str, journal: bool) -> None:
        key = f"bucket/models/{name}"
        if f"{key}/config.json" in self._others:
            return
        if journal:
            self._store.put(f"{key}/.tuneyard/delivering.json", b"{}")
            self._store.put(f"{key}/half.bin", b"half")
            return
        self._store.delete([f"{key}/.tuneyard/delivering.json"])
        put_model(self._store, key, self._fresh(), {"config.json": name.encode()})
        self._others[f"{key}/config.json"] = name.encode()

    @rule(name=st.sampled_from(["bucket/a.txt", "bucket/experiments/b.md", "bucket/experiments/a/sweep.json"]))
    def somebody_writes(self, name: str) -> None:
        self._others[name] = name.encode()
        self._store.put(name, name.encode())

    @precondition(lambda self: self._committed or self._others)
    @rule(grace=st.sampled_from([NOW, LATER]), place=st.sampled_from(["bucket", "bucket/experiments"]))
    def collect(self, grace: timedelta, place: str) -> None:
        if not any(True for _ in self._store.list(f"{place}/")):
            return
        remove_leftovers(self._store, place, grace=grace)
        if grace == NOW and any(True for _ in self._store.list(f"{place}/")):
            assert not take_inventory(self._store, place).leftovers

    @invariant()
    def everything_named_is_there(self) -> None:
        for key, body in self._others.items():
            assert self._store.get(key).body == body
        for key, (_run, step) in self._committed.items():
            folder = self._store.local_path(f"{key}/optimizer.pt")
            assert folder is not None
            (folder.parent / "manifest.json").rename(self._folder / "aside")
            try:
                assert is_checkpoint_of(folder.parent, step, scale=0.01), key
            finally:
                (self._folder / "aside").rename(folder.parent / "manifest.json")
        if self._committed:
            assert not verify_place(self._store, "bucket").damage


def _run(examples: int, steps: int) -> None:
    quiet = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(_Machine, settings=quiet)


def test_nothing_named_is_ever_removed():
    _run(examples=12, steps=30)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_named_is_ever_removed_in_ten_thousand_operations():
    _run(examples=250, steps=50)
