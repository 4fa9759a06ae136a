"""Damage to any class of files is reported before the first step, and found by `verify`."""

from __future__ import annotations

import pytest

from lab.chaos.damage import CLASSES, RUN, damage_files, kill_between_checkpoints
from lab.chaos.outcome import run
from lab.chaos.stores import ANY, FOLDER

pytestmark = pytest.mark.timeout(3600)


def damage(testbed_on, expected_on, name, trials, seed):
    testbed, expected = testbed_on(name), expected_on(name)
    killed = kill_between_checkpoints(testbed, expected)
    outcome = run(damage_files(testbed, expected, killed, trials, seed=seed))
    assert outcome.caught == outcome.trials == trials
    testbed.remove(RUN)


@pytest.mark.parametrize("name", FOLDER)
def test_30_damaged_files_are_reported_before_the_first_step(testbed_on, expected_on, name):
    damage(testbed_on, expected_on, name, 30, 20261126)
    assert len(CLASSES) <= 30


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ANY)
def test_150_damaged_files_are_reported_before_the_first_step(testbed_on, expected_on, name, seed):
    damage(testbed_on, expected_on, name, 150, seed)
