"""Checkpoints that are published over a faulty network: each one arrives, and as it was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lab.chaos.outcome import Trial
from lab.chaos.testbed import Testbed
from lab.checkpoints import difference, experiment, make_checkpoint, record
from lab.fault_proxy import Fault, fault_proxy, random_faults
from tuneyard.checkpoints import Publisher, RetentionPolicy
from tuneyard.errors import TuneyardError
from tuneyard.store import open_store

RATES: Mapping[Fault, float] = {"unavailable": 0.10, "reset": 0.05, "lost answer": 0.05, "stall": 0.02}
"""The share of requests that each fault hits."""

_RUN = "faulty-network"
_FLUSH_SECONDS = 300.0


def publish_over_faults(testbed: Testbed, count: int, *, seed: int, stall_seconds: float = 2.0) -> Iterator[Trial]:
    """Publish checkpoints through a proxy that injects faults.

    Args:
        testbed: Where to publish; its store is an S3 server.
        count: The number of checkpoints.
        seed: Seeds the faults.
        stall_seconds: How long a stalled request waits.
    """
    prefix = testbed.experiment(_RUN)
    plan = random_faults(seed, rates=RATES)
    ca_bundle = testbed.environ.get("AWS_CA_BUNDLE")
    with fault_proxy(testbed.store.url, plan, stall_seconds=stall_seconds, ca_bundle=ca_bundle) as url:
        store = open_store(url, environ=testbed.environ)
        attempt = experiment(store, prefix).claim(record())
        attempt.begin(None)
        with Publisher(attempt, retention=RetentionPolicy(keep=None)) as publisher:
            for step in range(1, count + 1):
                try:
                    publisher.submit(make_checkpoint(testbed.folder / _RUN, step), step, {"best": None})
                    publisher.flush(timeout_seconds=_FLUSH_SECONDS)
                    failure = difference(testbed.store, f"{prefix}/checkpoint-{step}-1", step, writer="a")
                except TuneyardError as error:
                    yield Trial(failure=f"save {step} of seed {seed} was not committed: {error.message}")
                    return
                yield Trial(failure=failure)
    testbed.remove(_RUN)


def accepts_proxy(testbed: Testbed) -> bool:
    """Return whether the store answers through a proxy without faults; not every server accepts its `Host`."""
    if not testbed.store.url.startswith("http"):
        return False
    ca_bundle = testbed.environ.get("AWS_CA_BUNDLE")
    with fault_proxy(testbed.store.url, lambda method, path: "none", ca_bundle=ca_bundle) as url:
        try:
            list(open_store(url, environ=testbed.environ).list(f"{testbed.prefix}/"))
        except TuneyardError:
            return False
    return True
