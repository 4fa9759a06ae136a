"""Every save over a faulty network is committed, and as it was sent."""

from __future__ import annotations

import pytest

from lab.chaos.network import accepts_proxy, publish_over_faults
from lab.chaos.outcome import run
from lab.chaos.stores import MINIO, SERVERS, stores

pytestmark = pytest.mark.timeout(3600)


def publish(testbed, count, **options):
    if not accepts_proxy(testbed):
        pytest.skip("this store takes no requests through a proxy on 127.0.0.1")
    assert run(publish_over_faults(testbed, count, **options)).trials == count


@pytest.mark.parametrize("name", stores(MINIO))
def test_20_saves_over_a_faulty_network_are_all_committed(testbed_on, name):
    """Stalls are short here; those of the soak are not."""
    publish(testbed_on(name, training=False), 20, seed=20261126, stall_seconds=0.2)


@pytest.mark.soak
@pytest.mark.parametrize("name", SERVERS)
def test_200_saves_over_a_faulty_network_are_all_committed(testbed_on, name):
    publish(testbed_on(name, training=False), 200, seed=1)
