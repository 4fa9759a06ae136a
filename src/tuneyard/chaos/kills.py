"""Trainings that are killed and launched again: at a random moment, and after a chosen request to the store.

Each is compared with one that nobody killed: the newest committed checkpoint is the one it goes on from, no more steps
are done again than there are between two saves, and its losses and weights are the same bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tuneyard.chaos.ground import Ended, Ground, Result
from tuneyard.chaos.marked import mixed
from tuneyard.chaos.material import SAVE_STEPS, STEPS
from tuneyard.chaos.outcome import Trial
from tuneyard.errors import TuneyardError

_SAVES = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """A training that nobody disturbed.

    Attributes:
        result: What it has published.
        seconds: How long it took.
        requests: The store requests that it made.
    """

    result: Result
    seconds: float
    requests: int


def reference(ground: Ground) -> Reference:
    """Train once without a kill.

    Raises:
        TuneyardError: That did not work.
    """
    ended = ground.train("reference")
    result = ground.result("reference")
    if ended.code or result is None:
        raise TuneyardError(
            f"The training without any trouble ended with {ended.code}: {last_words(ended.log)}",
            hint="See what this machine lacks: tuneyard doctor",
        )
    return Reference(result, ended.seconds, ended.requests)


def kills_at_random(ground: Ground, known: Reference, trials: int, *, seed: int, first: int = 0) -> Iterator[Trial]:
    """Kill trainings at random moments; every second one goes on on a machine that has nothing but the store.

    Args:
        ground: Where.
        known: The training that nobody disturbs.
        trials: How many.
        seed: Of the moments; with `first` it makes any trial happen again.
        first: The number of the first trial.
    """
    life = known.seconds
    for number in range(first, first + trials):
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - moments, no secrets
        delay = chance.uniform(0.05, 1.0) * life
        where = f"killed {delay:.3f} s after its start (trial {number} of seed {seed})"
        trial, whole = _trial(ground, known, f"kill-{number}", where, elsewhere=bool(number % 2), delay_seconds=delay)
        # A machine may have more or less to do than at the reference: moments keep to how long a training takes now.
        life = whole or life
        yield trial


def kills_after_requests(ground: Ground, known: Reference, requests: Iterable[int]) -> Iterator[Trial]:
    """Kill trainings right after chosen requests to the store, counted from 1 at their start."""
    for number in requests:
        where = f"killed after store request {number}"
        yield _trial(ground, known, f"request-{number}", where, elsewhere=bool(number % 2), request=number)[0]


def kills_of_saves(ground: Ground, requests: Iterable[int]) -> Iterator[Trial]:
    """Kill a process that only publishes after chosen requests; the next one goes on from what was committed, whole.

    Args:
        ground: Where.
        requests: Counted from 1 at the process's start.
    """
    for number in requests:
        run = f"save-{number}"
        where = f"killed after request {number} of a process that publishes"
        killed = ground.publish(run, _SAVES, request=number)
        newest = max((ref.step for ref in ground.committed(run)), default=0)
        again = ground.publish(run, _SAVES)
        wrong = ""
        if killed.code != -9:
            wrong = f"{where}, it had ended with {killed.code} before: {last_words(killed.log)}"
        elif again.code:
            wrong = f"{where}, it ended with {again.code} when launched again: {last_words(again.log)}"
        elif again.from_step != newest:
            wrong = f"{where}, it went on from step {again.from_step}, and step {newest} was committed"
        else:
            last = ground.committed(run)[0]
            wrong = mixed(ground.store, last.key, "a", _SAVES)
        yield Trial(resumed=again.code == 0, wrong=wrong)
        ground.remove(run)


def requests_of_saves(ground: Ground) -> int:
    """Count the requests of a process that publishes and is not killed."""
    ended = ground.publish("saves", _SAVES)
    ground.remove("saves")
    return ended.requests


def spread(requests: int, trials: int) -> list[int]:
    """Choose so many of the requests, evenly; every one where there are no more than that."""
    if trials >= requests:
        return list(range(1, requests + 1))
    return sorted({1 + number * (requests - 1) // max(1, trials - 1) for number in range(trials)})


def _trial(
    ground: Ground, known: Reference, run: str, where: str, *, elsewhere: bool, **order: Any
) -> tuple[Trial, float | None]:
    """Kill a training and launch it again; with it, how long a whole one took, where one of the two was whole."""
    killed = ground.train(run, **order)
    committed = [ref.step for ref in ground.committed(run)]
    if elsewhere:
        ground.forget_machine(run)
    again = ground.train(run)
    trial = _judge(where, known, killed, again, committed, ground.result(run))
    ground.remove(run)
    whole = [ended.seconds for ended in (again, killed) if ended.code == 0 and ended.from_step == 0]
    return trial, next(iter(whole), None)


def _judge(
    where: str,
    known: Reference,
    killed: Ended,
    again: Ended,
    committed: list[int],
    result: Result | None,
) -> Trial:
    resumed = again.code == 0
    bit_equal = resumed and result == known.result
    newest, reached = max(committed, default=0), killed.step
    lost = None if again.from_step is None else max(0, reached - again.from_step)
    wrong = ""
    if killed.code not in (-9, 0):
        wrong = f"{where}, it had ended with {killed.code} before: {last_words(killed.log)}"
    elif not resumed:
        wrong = f"{where}, it ended with {again.code} when launched again: {last_words(again.log)}"
    elif again.from_step is None and reached < STEPS:
        wrong = f"{where} at step {reached}, it had nothing left to do"
    elif again.from_step is not None and again.from_step != newest:
        wrong = f"{where}, it went on from step {again.from_step}, and step {newest} was committed"
    elif lost is not None and lost > SAVE_STEPS:
        wrong = f"{where} at step {reached}, it did {lost} steps again, and saves every {SAVE_STEPS}"
    elif not bit_equal:
        wrong = f"{where}, it ended with other losses or weights"
    on_its_way = killed.code == -9 and reached > 0 and again.from_step is not None
    return Trial(resumed=resumed, bit_equal=bit_equal, on_its_way=on_its_way, steps_lost=lost, wrong=wrong)


def last_words(log: str) -> str:
    """Give the line that tells most of how a training ended."""
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    return (errors or log.strip().splitlines() or ["it said nothing"])[-1]
