"""Two processes that both claim to be the writer of a run: one wins, and nothing of the other is published.

In odd rounds both claim the run before either publishes; in even rounds one claims it while the other is publishing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from lab.chaos.contender import STEPS
from lab.chaos.outcome import Trial
from lab.chaos.testbed import Testbed
from lab.checkpoints import difference
from lab.programs import Program
from tuneyard.checkpoints import Experiment
from tuneyard.errors import ConflictError, TuneyardError

_LOST = ConflictError.exit_code
_CONTENDER = "lab.chaos.contender"
_WRITERS = "ab"


def contend(testbed: Testbed, rounds: int, *, seed: int) -> Iterator[Trial]:
    """Let two processes contend for a run, a new run in each round.

    Args:
        testbed: Where to publish.
        rounds: The number of rounds.
        seed: Seeds the pauses.
    """
    with Program(_CONTENDER, testbed.environ) as one, Program(_CONTENDER, testbed.environ) as two:
        for number in range(rounds):
            rng = random.Random(f"{seed} {number}")
            run = f"contended-{number}"
            pauses = [rng.uniform(0, 0.02), rng.uniform(0, 0.02 if number % 2 else 0.4)]
            play = _claim_both if number % 2 else _take_over
            failure = play(testbed, run, (one, two), pauses)
            yield Trial(failure=f"{failure} (round {number} of seed {seed})" if failure else "")
            testbed.remove(run)


def _claim_both(testbed: Testbed, run: str, writers: tuple[Program, Program], pauses: list[float]) -> str:
    prefix = testbed.experiment(run)
    for writer, pause in zip(writers, pauses, strict=True):
        writer.send({"claim": prefix, "pause_seconds": pause})
    claims = [writer.receive() for writer in writers]
    for name, writer, pause in zip(_WRITERS, writers, reversed(pauses), strict=True):
        writer.send({"publish": name, "pause_seconds": pause})
    ends = [writer.receive() for writer in writers]
    codes = [claim["code"] for claim in claims]
    if codes == [0, 0] and sorted(claim["attempt"] for claim in claims) != [1, 2]:
        return f"two claims got the numbers {claims}"
    # A claim may find out in its `begin` that the other has taken over since.
    winner = 0 if codes[1] or (not codes[0] and claims[0]["attempt"] == 2) else 1
    if codes != [0, 0]:
        ends[1 - winner] = {"code": _LOST}
    return _judge(testbed, run, winner, ends)


def _take_over(testbed: Testbed, run: str, writers: tuple[Program, Program], pauses: list[float]) -> str:
    prefix = testbed.experiment(run)
    one, two = writers
    one.send({"claim": prefix})
    claimed = one.receive()
    if claimed["code"]:
        return f"a run that nobody else wrote could not be claimed: {claimed['message']}"
    one.send({"publish": "a", "pause_seconds": pauses[0]})
    two.send({"claim": prefix, "pause_seconds": pauses[1]})
    claimed = two.receive()
    if claimed["code"]:
        return f"a run could not be taken over: {claimed['message']}"
    two.send({"publish": "b"})
    ends = [one.receive(), two.receive()]
    if ends[0]["code"] == 0:  # it had finished before it was taken over
        ends[0] = {"code": _LOST}
    return _judge(testbed, run, 1, ends)


def _judge(testbed: Testbed, run: str, winner: int, ends: list[dict[str, Any]]) -> str:
    prefix = testbed.experiment(run)
    won, lost = _WRITERS[winner], _WRITERS[1 - winner]
    if ends[winner]["code"]:
        return f"the owner of a run ended with {ends[winner]['code']}: {ends[winner].get('message')}"
    if ends[1 - winner]["code"] != _LOST:
        return f"the writer that lost a run ended with {ends[1 - winner]['code']}: {ends[1 - winner].get('message')}"
    try:
        head = Experiment(testbed.store, prefix).head()
        if head is None or head.checkpoint is None or head.checkpoint.step != STEPS[-1] or not head.finished:
            return f"HEAD does not name what the winner published: {head}"
        for ref in testbed.committed(run):
            writer = won if ref.attempt == head.attempt else lost
            if failure := difference(testbed.store, ref.key, ref.step, writer=writer):
                return failure
        return difference(testbed.store, f"{prefix}/checkpoint-final", STEPS[-1], writer=won)
    except TuneyardError as error:
        return error.message
