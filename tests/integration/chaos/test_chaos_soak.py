"""The trials of `tuneyard chaos` in the numbers that are promised, on a folder and on both S3 servers.

In shards, each of its own seed and shorter than half an hour. A shard's name tells its seed, and each sentence of a
failure the trial in it.
"""

from __future__ import annotations

import pytest

from lab.chaos_stores import STORES
from tuneyard.chaos import Outcome
from tuneyard.chaos.damages import damages, killed_on_its_way
from tuneyard.chaos.kills import kills_after_requests, kills_at_random, kills_of_saves, reference, requests_of_saves
from tuneyard.chaos.saves import saves
from tuneyard.chaos.writers import two_writers

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600), pytest.mark.parametrize("name", STORES)]


def nothing_wrong(kind, trials, **facts):
    outcome = Outcome.of(kind, trials)
    print(kind, facts, {key: value for key, value in outcome.to_dict().items() if value not in (None, ())})
    assert outcome.wrong == (), "\n".join(outcome.wrong)
    return outcome


@pytest.mark.parametrize("seed", range(10))
def test_100_kills_at_random_moments_lose_nothing_that_was_committed(ground_of, name, seed):
    ground = ground_of(name)
    outcome = nothing_wrong("kill", kills_at_random(ground, reference(ground), 100, seed=seed), store=name, seed=seed)
    ground.remove("reference")
    assert outcome.resumed == outcome.bit_equal == 100
    assert outcome.on_its_way is not None
    assert outcome.on_its_way >= 20


@pytest.mark.parametrize("shard", range(4))
def test_a_kill_after_every_store_request_of_a_training_loses_nothing_that_was_committed(ground_of, name, shard):
    """A training's last requests vary by a few from one to the next, with what its publishing thread finds to do."""
    ground = ground_of(name)
    known = reference(ground)
    requests = range(1 + shard, known.requests + 1, 4)
    outcome = nothing_wrong("request", kills_after_requests(ground, known, requests), store=name, shard=shard)
    ground.remove("reference")
    assert outcome.bit_equal == len(requests)


def test_a_kill_after_every_request_of_saves_loses_nothing_that_was_committed(ground_of, name):
    ground = ground_of(name)
    requests = requests_of_saves(ground)
    outcome = nothing_wrong("saves", kills_of_saves(ground, range(1, requests + 1)), store=name)
    assert outcome.resumed == requests


@pytest.mark.parametrize("seed", range(2))
def test_150_damages_over_each_file_class_are_told_before_the_first_step(ground_of, name, seed):
    ground = ground_of(name)
    known = reference(ground)
    ground.remove("reference")
    killed = killed_on_its_way(ground, known)
    outcome = nothing_wrong("damage", damages(ground, known, killed, 150, seed=seed), store=name, seed=seed)
    assert outcome.caught == 150
    ground.put_back(f"{ground.prefix}/", killed.objects)
    ground.remove("damaged")


def test_200_saves_over_a_network_that_breaks_are_all_committed(ground_of, name):
    if name == "folder":
        pytest.skip("a folder is reached over no network")
    trials = saves(ground_of(name, training=False), 200, seed=1)
    assert nothing_wrong("weather", trials, store=name).trials == 200


def test_of_two_writers_one_wins_in_each_of_500_rounds(ground_of, name):
    trials = two_writers(ground_of(name, training=False), 500, seed=1)
    assert nothing_wrong("writers", trials, store=name).trials == 500
