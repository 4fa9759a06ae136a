"""Processes that end in the middle of publishing: what comes back is committed and whole, every time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from lab.checkpoints import (
    PREFIX,
    WRITES,
    experiment,
    is_checkpoint_of,
    make_checkpoint,
    no_damage,
    publish_steps,
    record,
)
from lab.faulty_store import FaultyStore, Killed
from lab.killed_publisher import check_kill_trials, run_kill_trials
from tuneyard.checkpoints import CheckpointRef, RetentionPolicy
from tuneyard.store import Store


def _run_trials(store: Store, tmp_path: Path, trials: int, *, seed: int) -> None:
    lines = run_kill_trials(store.url, PREFIX, tmp_path / "trials", trials=trials, seed=seed, env=os.environ)
    check_kill_trials(store, PREFIX, tmp_path, lines)


def test_the_newest_committed_checkpoint_survives_20_kills(store: Store, tmp_path: Path) -> None:
    _run_trials(store, tmp_path, 20, seed=20261123)


@pytest.mark.soak
def test_the_newest_committed_checkpoint_survives_200_kills(store: Store, tmp_path: Path) -> None:
    _run_trials(store, tmp_path, 200, seed=1)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", range(1, 17))
def test_an_end_at_each_write_of_a_publish_leaves_the_newest_committed_checkpoint(
    store: Store, tmp_path: Path, call: int, moment: str
) -> None:
    """Two checkpoints are there; the third one's publish and prune ends before or after its k-th write."""
    publish_steps(store, tmp_path, 10, 20)
    writes = 0

    def die(verb: str, _key: str) -> None:
        nonlocal writes
        writes += verb in WRITES
        if armed and verb in WRITES and writes == call:
            raise Killed

    armed = False
    dying = experiment(FaultyStore(store, **{moment: die})).claim(record())
    dying.begin(CheckpointRef.at(PREFIX, 20, 1))
    writes, armed = 0, True
    died = False
    try:
        dying.publish(make_checkpoint(tmp_path / "30", 30), 30, {"best": 20})
        dying.prune(RetentionPolicy(keep=1))
    except Killed:
        died = True
    assert died == (call <= 15), "a publish and prune with another number of writes needs another range here"
    committed = any(info.key.endswith("checkpoint-30-2/manifest.json") for info in store.list(f"{PREFIX}/"))
    restored = experiment(store).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.ref.step == (30 if committed else 20)
    assert is_checkpoint_of(restored.path, restored.ref.step)
    assert restored.best == (tmp_path / "work" / "checkpoint-20" if committed else None)
    # and the next attempt goes on from there, and leaves nothing behind
    publish_steps(store, tmp_path, 40)
    again = experiment(store).claim(record())
    again.prune(RetentionPolicy(keep=None))
    kept = {info.key.split("/")[3] for info in store.list(f"{PREFIX}/") if "/checkpoint-" in info.key}
    whole = {ref.name for ref in experiment(store).committed()}
    assert kept == whole


@pytest.mark.parametrize("call", range(1, 11))
def test_an_end_at_each_write_of_a_final_publish_never_shows_a_mix(store: Store, tmp_path: Path, call: int) -> None:
    """A final model is replaced; it is the old one, none, or the new one, and the next attempt finishes it."""
    first = experiment(store).claim(record())
    old = first.publish_final(make_checkpoint(tmp_path / "old", 1), "checkpoint-final", {})
    writes = 0

    def die(verb: str, _key: str) -> None:
        nonlocal writes
        writes += verb in WRITES
        if armed and verb in WRITES and writes == call:
            raise Killed

    armed = False
    dying = experiment(FaultyStore(store, before=die)).claim(record())
    armed, writes = True, 0
    new = make_checkpoint(tmp_path / "new", 2)
    with contextlib.suppress(Killed):
        dying.publish_final(new, "checkpoint-final", {})
    found = experiment(store).finished()
    if found is not None:
        body = store.get(f"{PREFIX}/checkpoint-final/model.safetensors").body
        assert body == (tmp_path / ("old" if found == old else "new") / "model.safetensors").read_bytes()
    last = experiment(store).claim(record()).publish_final(new, "checkpoint-final", {})
    assert experiment(store).finished() == last


@pytest.mark.parametrize("call", range(1, 5))
def test_an_end_at_each_write_of_a_claim_leaves_the_experiment_to_the_next(
    store: Store, tmp_path: Path, call: int
) -> None:
    writes = 0

    def die(verb: str, _key: str) -> None:
        nonlocal writes
        writes += verb in WRITES
        if verb in WRITES and writes == call:
            raise Killed

    try:
        experiment(FaultyStore(store, after=die)).claim(record()).begin(None)
    except Killed:
        pass
    else:
        pytest.fail("a claim and its begin make four writes")
    attempt = experiment(store).claim(record())
    assert attempt.number == 2
    assert experiment(store).restore(tmp_path / "work", on_damage=no_damage) is None
