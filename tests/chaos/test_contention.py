"""Of two writers of one run exactly one wins, and nothing of the other is in what it published."""

from __future__ import annotations

import pytest

from lab.chaos.contention import contend
from lab.chaos.outcome import run
from lab.chaos.stores import ANY, FOLDER

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.parametrize("name", FOLDER)
def test_one_of_two_writers_wins_each_of_30_rounds(testbed_on, name):
    assert run(contend(testbed_on(name, training=False), 30, seed=20261126)).trials == 30


@pytest.mark.soak
@pytest.mark.parametrize("name", ANY)
def test_one_of_two_writers_wins_each_of_500_rounds(testbed_on, name):
    assert run(contend(testbed_on(name, training=False), 500, seed=1)).trials == 500
