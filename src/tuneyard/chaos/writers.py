"""Two processes that believe to be the writer of one run: one wins, and nothing of the other is in what it published.

In every second round both own the run in turn before either publishes; in the others one takes it over while the other
is in the midst of publishing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tuneyard.chaos.ground import Ground
from tuneyard.chaos.marked import mixed
from tuneyard.chaos.outcome import Trial
from tuneyard.chaos.programs import Program
from tuneyard.chaos.writer import STEPS
from tuneyard.checkpoints import Experiment
from tuneyard.errors import ConflictError, TuneyardError

_LOST = ConflictError.exit_code


def two_writers(ground: Ground, rounds: int, *, seed: int, first: int = 0) -> Iterator[Trial]:
    """Let two processes contend for a run, each round for another one.

    Args:
        ground: Where.
        rounds: How many runs.
        seed: Of the pauses; with `first` it makes any round happen again, as far as timing can.
        first: The number of the first round.
    """
    with (
        Program("tuneyard.chaos.writer", ground.environ) as one,
        Program("tuneyard.chaos.writer", ground.environ) as two,
    ):
        for number in range(first, first + rounds):
            chance = random.Random(f"{seed} {number}")  # noqa: S311 - pauses, no secrets
            run = f"contended-{number}"
            pauses = [chance.uniform(0, 0.02), chance.uniform(0, 0.02 if number % 2 else 0.4)]
            contend = _both_claim if number % 2 else _one_takes_over
            wrong = contend(ground, run, (one, two), pauses)
            yield Trial(wrong=f"{wrong} (round {number} of seed {seed})" if wrong else "")
            ground.remove(run)


def _both_claim(ground: Ground, run: str, writers: tuple[Program, Program], pauses: list[float]) -> str:
    prefix = ground.experiment(run)
    for writer, pause in zip(writers, pauses, strict=True):
        writer.tell({"claim": prefix, "pause_seconds": pause})
    claims = [writer.answer() for writer in writers]
    for name, writer, pause in zip("ab", writers, reversed(pauses), strict=True):
        writer.tell({"publish": name, "pause_seconds": pause})
    ends = [writer.answer() for writer in writers]
    failed = [claim["code"] for claim in claims]
    if failed == [0, 0] and sorted(claim["attempt"] for claim in claims) != [1, 2]:
        return f"two claims got the numbers {claims}"
    # a claim may find out in its `begin` that the other has taken over since
    winner = 0 if failed[1] or (not failed[0] and claims[0]["attempt"] == 2) else 1
    return _judge(ground, run, winner, ends if failed == [0, 0] else [ends[winner], {"code": _LOST}][:: 1 - 2 * winner])


def _one_takes_over(ground: Ground, run: str, writers: tuple[Program, Program], pauses: list[float]) -> str:
    prefix = ground.experiment(run)
    one, two = writers
    one.tell({"claim": prefix})
    begun = one.answer()
    if begun["code"]:
        return f"a run that nobody else wrote could not be claimed: {begun['said']}"
    one.tell({"publish": "a", "pause_seconds": pauses[0]})
    two.tell({"claim": prefix, "pause_seconds": pauses[1]})
    claimed = two.answer()
    if claimed["code"]:
        return f"a run could not be taken over: {claimed['said']}"
    two.tell({"publish": "b"})
    ends = [one.answer(), two.answer()]
    if ends[0]["code"] == 0:  # it was done before it was taken over
        ends[0] = {"code": _LOST}
    return _judge(ground, run, 1, ends)


def _judge(ground: Ground, run: str, winner: int, ends: list[dict[str, Any]]) -> str:
    prefix = ground.experiment(run)
    if ends[winner]["code"]:
        return f"the owner of a run ended with {ends[winner]['code']}: {ends[winner].get('said')}"
    if ends[1 - winner]["code"] != _LOST:
        return f"the writer that had lost a run ended with {ends[1 - winner]['code']}: {ends[1 - winner].get('said')}"
    try:
        head = Experiment(ground.store, prefix).head()
        if head is None or head.checkpoint is None or head.checkpoint.step != STEPS[-1] or not head.finished:
            return f"HEAD does not name what the winner published: {head}"
        found = {
            ref.attempt: "ab"[winner] if ref.attempt == head.attempt else "ab"[1 - winner]
            for ref in ground.committed(run)
        }
        for ref in ground.committed(run):
            if wrong := mixed(ground.store, ref.key, found[ref.attempt], ref.step):
                return wrong
        return mixed(ground.store, f"{prefix}/checkpoint-final", "ab"[winner], STEPS[-1])
    except TuneyardError as error:
        return error.message
