"""Checkpoints that are published while the store's network breaks: every one arrives, and as it was sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuneyard.chaos.ground import Ground
from tuneyard.chaos.marked import make, mixed, record
from tuneyard.chaos.outcome import Trial
from tuneyard.chaos.proxy import Fault, bad_weather, fault_proxy
from tuneyard.checkpoints import Experiment, Publisher, RetentionPolicy
from tuneyard.errors import TuneyardError
from tuneyard.store import open_store

WEATHER: Mapping[Fault, float] = {"unavailable": 0.10, "reset": 0.05, "lost answer": 0.05, "stall": 0.02}
"""The share of requests that each fault hits."""

_RUN = "bad-weather"
_PATIENCE_SECONDS = 300.0


def saves(
    ground: Ground, count: int, *, seed: int, stall_seconds: float = 2.0, weather: Mapping[Fault, float] = WEATHER
) -> Iterator[Trial]:
    """Publish checkpoints through a network that breaks.

    Args:
        ground: Where; its store is an S3 server.
        count: How many checkpoints.
        seed: Of the faults.
        stall_seconds: How long a stalled request waits.
        weather: The share of requests that each fault hits.
    """
    prefix = ground.experiment(_RUN)
    plan = bad_weather(seed, shares=weather)
    ca_bundle = ground.environ.get("AWS_CA_BUNDLE")
    with fault_proxy(ground.store.url, plan, stall_seconds=stall_seconds, ca_bundle=ca_bundle) as url:
        store = open_store(url, environ=ground.environ)
        attempt = Experiment(store, prefix).claim(record())
        attempt.begin(None)
        with Publisher(attempt, retention=RetentionPolicy(keep=None)) as publisher:
            for step in range(1, count + 1):
                try:
                    publisher.submit(make(ground.folder / _RUN, "a", step), step, {"best": None})
                    publisher.flush(timeout_seconds=_PATIENCE_SECONDS)
                    wrong = mixed(ground.store, f"{prefix}/checkpoint-{step}-1", "a", step)
                except TuneyardError as error:
                    yield Trial(wrong=f"save {step} of seed {seed} was not committed: {error.message}")
                    return
                yield Trial(wrong=wrong)
    ground.remove(_RUN)


def passes_on(ground: Ground) -> bool:
    """Tell whether the store answers through a proxy that breaks nothing: not every server takes its requests."""
    ca_bundle = ground.environ.get("AWS_CA_BUNDLE")
    with fault_proxy(ground.store.url, lambda method, path: "none", ca_bundle=ca_bundle) as url:
        try:
            list(open_store(url, environ=ground.environ).list(f"{ground.prefix}/"))
        except TuneyardError:
            return False
    return True
