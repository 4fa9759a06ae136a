"""A kill loses little: no step is completed after a save that is not committed, if the store is reachable."""

import json
import time

import pytest

from lab.faulty_store import FaultyStore
from lab.training import ARGUMENTS, changed, deliver_inputs, train_here
from tuneyard.errors import UnavailableError

EVERY = 3
VALUES = changed(**{ARGUMENTS + "save_steps": EVERY, ARGUMENTS + "eval_strategy": "no"})


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "work"


def step(workdir):
    return json.loads((workdir / "progress.json").read_text()).get("step", 0)


def saved_step(key):
    """The step of the checkpoint that a key belongs to; 0 where it belongs to none."""
    names = [part for part in key.split("/") if part.startswith("checkpoint-") and part != "checkpoint-final"]
    return int(names[0].split("-")[1]) if names else 0


def test_a_step_after_a_save_waits_for_its_commit(store, workdir):
    """The store is slow for the duration of about twenty steps."""
    reached = {}

    def delay_commits(verb, key):
        if verb == "create" and key.endswith("manifest.json") and saved_step(key):
            time.sleep(0.5)
            reached[saved_step(key)] = step(workdir)

    assert train_here(VALUES, store, workdir, through=lambda real: FaultyStore(real, before=delay_commits)) == 0
    assert reached == {3: 3, 6: 6, 9: 9, 10: 10}


def test_an_unreachable_store_delays_no_step(store, workdir):
    """The first save can't be published before the training is past the second."""
    refused = 0

    def raise_unavailable(_verb, key):
        nonlocal refused
        if saved_step(key) == EVERY and step(workdir) < 2 * EVERY + 1:
            refused += 1
            raise UnavailableError("The store is unreachable.")

    assert train_here(VALUES, store, workdir, through=lambda real: FaultyStore(real, before=raise_unavailable)) == 0
    assert refused
