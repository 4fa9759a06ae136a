"""A kill at any moment loses nothing that was committed, and the resumed training is bit-equal.

The soak runs in shards with a seed each; each sentence of a failure names the trial.
"""

from __future__ import annotations

import pytest

from lab.chaos.kills import count_publisher_requests, kill_after_requests, kill_at_random, kill_publishers
from lab.chaos.outcome import run
from lab.chaos.stores import ANY, FOLDER, SERVERS

pytestmark = pytest.mark.timeout(3600)


def kill(testbed_on, expected_on, name, trials, seed):
    outcome = run(kill_at_random(testbed_on(name), expected_on(name), trials, seed=seed))
    assert outcome.trials == outcome.resumed == outcome.bit_equal == trials
    return outcome


def kill_each_publisher(testbed):
    requests = count_publisher_requests(testbed)
    assert requests > 40
    assert run(kill_publishers(testbed, range(1, requests + 1))).resumed == requests


@pytest.mark.parametrize("name", FOLDER)
def test_10_kills_at_random_moments_lose_nothing_committed(testbed_on, expected_on, name):
    outcome = kill(testbed_on, expected_on, name, 10, 20261126)
    assert outcome.mid_run, "no kill came between a training's first step and its end"


@pytest.mark.parametrize("name", FOLDER)
def test_a_kill_after_each_request_of_two_saves_loses_nothing_committed(testbed_on, name):
    kill_each_publisher(testbed_on(name))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ANY)
def test_100_kills_at_random_moments_lose_nothing_committed(testbed_on, expected_on, name, seed):
    assert kill(testbed_on, expected_on, name, 100, seed).mid_run >= 20


@pytest.mark.soak
@pytest.mark.parametrize("shard", range(4))
@pytest.mark.parametrize("name", ANY)
def test_a_kill_after_each_request_of_a_training_loses_nothing_committed(testbed_on, expected_on, name, shard):
    """The number of requests varies by a few from one training to the next, with the timing of the publisher."""
    expected = expected_on(name)
    requests = range(1 + shard, expected.requests + 1, 4)
    assert run(kill_after_requests(testbed_on(name), expected, requests)).bit_equal == len(requests)


@pytest.mark.soak
@pytest.mark.parametrize("name", SERVERS)
def test_a_kill_after_each_request_of_two_saves_to_a_server_loses_nothing_committed(testbed_on, name):
    kill_each_publisher(testbed_on(name))
