"""Trainings that are killed and launched again: at a random moment, or after a chosen store request.

Each is compared with an undisturbed one: it resumes from the newest committed checkpoint, repeats no more steps than
lie between two saves, and ends with the same losses and weights bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lab.chaos.outcome import Trial
from lab.chaos.testbed import SAVE_STEPS, STEPS, Ended, Result, Testbed
from lab.checkpoints import difference

_PUBLISHED_STEPS = 2
_KILLED = -9


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed training.

    Attributes:
        result: What it has published.
        seconds: How long it took.
        requests: The store requests that it made.
    """

    result: Result
    seconds: float
    requests: int


def reference(testbed: Testbed) -> Reference:
    """Train once without a kill, and remove the run."""
    ended = testbed.train("reference")
    result = testbed.result("reference")
    assert ended.code == 0, ended.log
    assert result is not None
    testbed.remove("reference")
    return Reference(result, ended.seconds, ended.requests)


def kill_at_random(testbed: Testbed, expected: Reference, trials: int, *, seed: int) -> Iterator[Trial]:
    """Kill trainings at random moments; every second one resumes on a machine that has nothing but the store.

    Args:
        testbed: Where to train.
        expected: The undisturbed training.
        trials: The number of trials.
        seed: Seeds the moments.
    """
    duration = expected.seconds
    for number in range(trials):
        rng = random.Random(f"{seed} {number}")
        delay = rng.uniform(0.05, 1.0) * duration
        where = f"killed {delay:.3f} s after its start (trial {number} of seed {seed})"
        run = f"kill-{number}"
        trial, whole = _trial(testbed, expected, run, where, elsewhere=bool(number % 2), delay_seconds=delay)
        # The machine's load changes: scale the moments to the newest training that ran from start to end.
        duration = whole or duration
        yield trial


def kill_after_requests(testbed: Testbed, expected: Reference, requests: Iterable[int]) -> Iterator[Trial]:
    """Kill trainings right after chosen store requests, counted from 1 at their start."""
    for number in requests:
        where = f"killed after store request {number}"
        yield _trial(testbed, expected, f"request-{number}", where, elsewhere=bool(number % 2), request=number)[0]


def kill_publishers(testbed: Testbed, requests: Iterable[int]) -> Iterator[Trial]:
    """Kill a process that only publishes after chosen requests; the next one resumes from what was committed.

    Args:
        testbed: Where to publish.
        requests: Counted from 1 at the process's start.
    """
    for number in requests:
        run = f"save-{number}"
        where = f"killed after request {number} of a process that publishes"
        killed = testbed.publish(run, _PUBLISHED_STEPS, request=number)
        newest = max((ref.step for ref in testbed.committed(run)), default=0)
        resumed = testbed.publish(run, _PUBLISHED_STEPS)
        failure = ""
        if killed.code != _KILLED:
            failure = f"{where}, it had ended with {killed.code} before: {killed.last_line}"
        elif resumed.code:
            failure = f"{where}, it ended with {resumed.code} when launched again: {resumed.last_line}"
        elif resumed.from_step != newest:
            failure = f"{where}, it resumed from step {resumed.from_step}, but step {newest} was committed"
        else:
            last = testbed.committed(run)[0]
            failure = difference(testbed.store, last.key, _PUBLISHED_STEPS, writer="a")
        yield Trial(resumed=resumed.code == 0, failure=failure)
        testbed.remove(run)


def count_publisher_requests(testbed: Testbed) -> int:
    """Count the store requests of a process that publishes and is not killed."""
    ended = testbed.publish("saves", _PUBLISHED_STEPS)
    assert ended.code == 0, ended.log
    testbed.remove("saves")
    return ended.requests


def _trial(
    testbed: Testbed, expected: Reference, run: str, where: str, *, elsewhere: bool, **order: Any
) -> tuple[Trial, float | None]:
    """Kill a training and launch it again; return the seconds of a whole training too, if one of the two was whole."""
    killed = testbed.train(run, **order)
    committed = [ref.step for ref in testbed.committed(run)]
    if elsewhere:
        testbed.remove_local(run)
    resumed = testbed.train(run)
    trial = _judge(where, expected, killed, resumed, committed, testbed.result(run))
    testbed.remove(run)
    whole = [ended.seconds for ended in (resumed, killed) if ended.code == 0 and ended.from_step == 0]
    return trial, next(iter(whole), None)


def _judge(
    where: str,
    expected: Reference,
    killed: Ended,
    resumed: Ended,
    committed: list[int],
    result: Result | None,
) -> Trial:
    finished = resumed.code == 0
    bit_equal = finished and result == expected.result
    newest, reached = max(committed, default=0), killed.step
    lost = None if resumed.from_step is None else max(0, reached - resumed.from_step)
    failure = ""
    if killed.code not in (_KILLED, 0):
        failure = f"{where}, it had ended with {killed.code} before: {killed.last_line}"
    elif not finished:
        failure = f"{where}, it ended with {resumed.code} when launched again: {resumed.last_line}"
    elif resumed.from_step is None and reached < STEPS:
        failure = f"{where} at step {reached}, it had nothing left to do"
    elif resumed.from_step is not None and resumed.from_step != newest:
        failure = f"{where}, it resumed from step {resumed.from_step}, but step {newest} was committed"
    elif lost is not None and lost > SAVE_STEPS:
        failure = f"{where} at step {reached}, it repeated {lost} steps, but saves every {SAVE_STEPS}"
    elif not bit_equal:
        failure = f"{where}, it ended with other losses or weights"
    mid_run = killed.code == _KILLED and reached > 0 and resumed.from_step is not None
    return Trial(resumed=finished, bit_equal=bit_equal, mid_run=mid_run, steps_lost=lost, failure=failure)
