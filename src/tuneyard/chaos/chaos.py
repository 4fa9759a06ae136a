"""All kinds of trials on one store, one after another."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tuneyard.chaos.damages import damages, killed_on_its_way
from tuneyard.chaos.ground import ground
from tuneyard.chaos.kills import kills_after_requests, kills_at_random, reference, spread
from tuneyard.chaos.outcome import Outcome, Trial
from tuneyard.chaos.saves import passes_on, saves
from tuneyard.chaos.writers import two_writers

Progress = Callable[[str, int, int], None]
"""Called with the kind, the trials done and all of them."""

KILLS, REQUESTS, DAMAGE = "kill -9 at a random moment", "kill -9 after a store request", "damaged file"
WRITERS, WEATHER = "two writers of one run", "save over a broken network"


@dataclass(frozen=True, slots=True)
class Report:
    """What all trials have shown.

    Attributes:
        store: The store's URL.
        prefix: Where they wrote; nothing is left there.
        seed: What makes them happen again.
        outcomes: One for each kind.
    """

    store: str
    prefix: str
    seed: int
    outcomes: tuple[Outcome, ...]

    @property
    def wrong(self) -> list[str]:
        """Everything that went wrong, a sentence each."""
        return [sentence for outcome in self.outcomes for sentence in outcome.wrong]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON can hold it."""
        return {
            "store": self.store,
            "prefix": self.prefix,
            "seed": self.seed,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }


def run_chaos(
    url: str | None,
    *,
    bucket: str,
    trials: int,
    seed: int,
    environ: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Kill trainings, damage what they go on from, break the network, and let two writers contend, on a real store.

    The trainings are real processes of a tiny model that is made for it. Everything is written below one prefix,
    `<bucket>/.tuneyard-chaos/…`, and removed in the end, however the trials end. Needs the parts that train.

    Args:
        url: The store; where None, `TUNEYARD_STORE` or the default folder.
        bucket: The bucket to write into.
        trials: How many of each kind.
        seed: Of every random choice.
        environ: Where `AWS_*` is read from; the process's own environment where None.
        progress: Called after each trial.

    Returns:
        The report.

    Raises:
        TuneyardError: The store can't be used, or the training without any trouble fails.
    """
    with ground(url, bucket, os.environ if environ is None else environ) as place:
        known = reference(place)
        outcomes = [
            _made(KILLS, kills_at_random(place, known, trials, seed=seed), trials, progress),
            _made(REQUESTS, kills_after_requests(place, known, spread(known.requests, trials)), trials, progress),
        ]
        place.remove("reference")
        killed = killed_on_its_way(place, known)
        outcomes.append(_made(DAMAGE, damages(place, known, killed, trials, seed=seed), trials, progress))
        place.remove("damaged")
        outcomes.append(_made(WRITERS, two_writers(place, trials, seed=seed), trials, progress))
        if place.store.url.startswith("file:"):
            outcomes.append(Outcome(WEATHER, 0, skipped="a folder is reached over no network"))
        elif not passes_on(place):
            outcomes.append(Outcome(WEATHER, 0, skipped="this server takes no requests through a proxy on 127.0.0.1"))
        else:
            outcomes.append(_made(WEATHER, saves(place, trials, seed=seed), trials, progress))
        return Report(place.store.url, place.prefix, seed, tuple(outcomes))


def _made(kind: str, trials: Iterable[Trial], count: int, progress: Progress | None) -> Outcome:
    def counted() -> Iterator[Trial]:
        for number, trial in enumerate(trials, start=1):
            if progress:
                progress(kind, number, count)
            yield trial

    return Outcome.of(kind, counted())
