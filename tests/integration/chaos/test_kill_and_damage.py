"""The trials of `tuneyard chaos` in short: nothing is lost, nothing damaged is used, one writer wins."""

from __future__ import annotations

import pytest

from tuneyard.chaos import Outcome
from tuneyard.chaos.damages import CLASSES, damages, killed_on_its_way
from tuneyard.chaos.kills import kills_at_random, kills_of_saves, reference, requests_of_saves
from tuneyard.chaos.saves import WEATHER, saves
from tuneyard.chaos.writers import two_writers

SEED = 20261126


@pytest.fixture(scope="module")
def known(ground_of):
    return reference(ground_of("folder"))


def nothing_wrong(outcome):
    assert outcome.wrong == (), "\n".join(outcome.wrong)
    return outcome


def test_10_kills_at_random_moments_lose_nothing_that_was_committed(ground_of, known):
    outcome = nothing_wrong(Outcome.of("kill", kills_at_random(ground_of("folder"), known, 10, seed=SEED)))
    assert (outcome.trials, outcome.resumed, outcome.bit_equal) == (10, 10, 10)
    assert outcome.on_its_way, "no kill came between a training's first step and its end"


def test_a_kill_after_each_request_of_two_saves_loses_nothing_that_was_committed(ground_of):
    ground = ground_of("folder")
    requests = requests_of_saves(ground)
    assert requests > 40
    outcome = nothing_wrong(Outcome.of("request", kills_of_saves(ground, range(1, requests + 1))))
    assert outcome.resumed == requests


def test_30_damages_over_each_file_class_are_told_before_the_first_step(ground_of, known):
    ground = ground_of("folder")
    killed = killed_on_its_way(ground, known)
    outcome = nothing_wrong(Outcome.of("damage", damages(ground, known, killed, 30, seed=SEED)))
    assert outcome.caught == outcome.trials == 30
    assert len(CLASSES) <= 30
    ground.put_back(f"{ground.prefix}/", killed.objects)


@pytest.mark.s3
def test_20_saves_over_a_network_that_breaks_are_all_committed(ground_of):
    """Stalls are short here; the soak has whole ones."""
    trials = saves(ground_of("minio", training=False), 20, seed=SEED, stall_seconds=0.2, weather=WEATHER)
    assert nothing_wrong(Outcome.of("saves", trials)).trials == 20


def test_of_two_writers_one_wins_in_each_of_30_rounds(ground_of):
    trials = two_writers(ground_of("folder", training=False), 30, seed=SEED)
    assert nothing_wrong(Outcome.of("writers", trials)).trials == 30
