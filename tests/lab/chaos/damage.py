"""Damage to what a training resumes from: each class of files, changed as disks, copies and people change files.

A training is killed once. Each trial then damages one file of its experiment, its model or its dataset and launches it:
it has to report the damage, or to end with exit 7, 4 or 6, before its first step, and `verify` has to find it too.
Everything is restored before the next trial.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lab.chaos.kills import Reference
from lab.chaos.outcome import Trial
from lab.chaos.testbed import Ended, Testbed
from tuneyard.errors import ConflictError, IntegrityError, NotFoundError
from tuneyard.inventory import verify_place

RUN = "damaged"
_REFUSALS = (IntegrityError.exit_code, NotFoundError.exit_code, ConflictError.exit_code)
"""Damaged; missing; another model or dataset than the run started with, where a manifest replaced another one."""

Objects = dict[str, bytes]
Mutation = Callable[[Objects, str, random.Random], None]
"""Damages the object of a key, in place."""


def _flip(objects: Objects, key: str, rng: random.Random) -> None:
    body = bytearray(objects[key])
    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    objects[key] = bytes(body)


def _truncate(objects: Objects, key: str, rng: random.Random) -> None:
    objects[key] = objects[key][: rng.randrange(len(objects[key]))]


def _swap(objects: Objects, key: str, rng: random.Random) -> None:
    """Swap the object with another one, as if two files had been renamed."""
    # Further rows of metrics are not damage.
    others = sorted(other for other, body in objects.items() if not body.startswith(objects[key]))
    other = rng.choice(others)
    objects[key], objects[other] = objects[other], objects[key]


def _delete(objects: Objects, key: str, rng: random.Random) -> None:
    del rng
    del objects[key]


MUTATIONS: dict[str, Mutation] = {"bit flip": _flip, "truncation": _truncate, "swap": _swap, "deletion": _delete}
STALE = "stale mix"
"""One file of the newest checkpoint is that of the previous one."""

CLASSES: dict[str, str] = {
    "weights": "*/damaged/{newest}/*.safetensors",
    "optimizer": "*/damaged/{newest}/optimizer.pt",
    "scheduler": "*/damaged/{newest}/scheduler.pt",
    "random numbers": "*/damaged/{newest}/rng_state*.pth",
    "trainer state": "*/damaged/{newest}/trainer_state.json",
    "counters": "*/damaged/{newest}/counters.json",
    "rows of metrics": "*/damaged/{newest}/metrics.jsonl",
    "adapter config": "*/damaged/{newest}/adapter_config.json",
    "checkpoint manifest": "*/damaged/{newest}/manifest.json",
    "HEAD": "*/damaged/HEAD",
    "run record": "*/damaged/run.json",
    "published metrics": "*/damaged/metrics.jsonl",
    "base weights": "*/models/*.safetensors",
    "base config": "*/models/*/config.json",
    "tokenizer": "*/models/*/tokenizer.json",
    "base manifest": "*/models/*/manifest.json",
    "dataset": "*/datasets/*.jsonl",
    "dataset manifest": "*/datasets/.tuneyard/*",
}
"""Classes of files, each with the pattern of its keys."""


@dataclass(frozen=True, slots=True)
class KilledRun:
    """A killed training that can be restored to how the kill left it.

    Attributes:
        objects: Everything below the testbed's prefix.
        newest: The name of the newest committed checkpoint.
        previous: The name of the checkpoint before it.
    """

    objects: Mapping[str, bytes]
    newest: str
    previous: str


def kill_between_checkpoints(testbed: Testbed, expected: Reference) -> KilledRun:
    """Make a killed training with two committed checkpoints.

    Args:
        testbed: Where to train.
        expected: The undisturbed training.
    """
    for share in (0.7, 0.65, 0.75, 0.6, 0.8, 0.55, 0.5):
        testbed.remove(RUN)
        ended = testbed.train(RUN, request=int(share * expected.requests))
        committed = testbed.committed(RUN)
        if ended.code == -9 and len(committed) >= 2 and testbed.result(RUN) is None:
            testbed.remove_local(RUN)
            objects = testbed.snapshot(f"{testbed.prefix}/")
            newest, previous = committed[0].name, committed[1].name
            # A resume drops the rows after the newest checkpoint.
            published = f"{testbed.experiment(RUN)}/metrics.jsonl"
            objects[published] = objects[published.replace("metrics.jsonl", f"{newest}/metrics.jsonl")]
            return KilledRun(objects, newest, previous)
    raise AssertionError("no training was killed between two checkpoints")


def damage_files(
    testbed: Testbed, expected: Reference, killed: KilledRun, trials: int, *, seed: int, to_end: int = 10
) -> Iterator[Trial]:
    """Damage one file per trial.

    Args:
        testbed: Where to train.
        expected: The undisturbed training.
        killed: The training to damage.
        trials: The number of trials.
        seed: Seeds the damage.
        to_end: One in this many trainings runs to its end and is compared.
    """
    kinds = _kinds(killed)
    random.Random(seed).shuffle(kinds)
    for number in range(trials):
        name, mutation = kinds[number % len(kinds)]
        rng = random.Random(f"{seed} {number}")
        objects = dict(killed.objects)
        key = rng.choice(_keys(killed, name))
        if mutation == STALE:
            objects[key] = _previous(killed, key)
        else:
            MUTATIONS[mutation](objects, key, rng)
        where = f"{mutation} of {name} (trial {number} of seed {seed})"
        testbed.restore(f"{testbed.prefix}/", objects)
        yield _trial(testbed, expected, where, to_end=number % to_end == 0)
        testbed.remove_local(RUN)
    testbed.restore(f"{testbed.prefix}/", killed.objects)


def _kinds(killed: KilledRun) -> list[tuple[str, str]]:
    """List each class of files with each mutation that changes it."""
    stale = [
        name for name in CLASSES if any(_previous(killed, key) != killed.objects[key] for key in _keys(killed, name))
    ]
    return [*itertools.product(CLASSES, MUTATIONS), *((name, STALE) for name in stale)]


def _keys(killed: KilledRun, name: str) -> list[str]:
    pattern = CLASSES[name].format(newest=killed.newest)
    return sorted(key for key in killed.objects if fnmatchcase(key, pattern))


def _previous(killed: KilledRun, key: str) -> bytes:
    return killed.objects[key.replace(f"/{killed.newest}/", f"/{killed.previous}/")]


def _trial(testbed: Testbed, expected: Reference, where: str, *, to_end: bool) -> Trial:
    verified = _verifies(testbed)
    launched = testbed.train(RUN, **({} if to_end else {"until": ["Attempt "]}))
    refused = launched.code in _REFUSALS
    caught = refused or _reported(launched)
    failure = ""
    if not caught:
        failure = f"{where} was not reported before the first step: {launched.last_line}"
    elif launched.code not in (0, -9) and not refused:
        failure = f"{where} ended with {launched.code}: {launched.last_line}"
    elif verified:
        failure = f"{where} was not found by verify"
    if not to_end or refused:
        return Trial(caught=caught, failure=failure)
    bit_equal = launched.code == 0 and testbed.result(RUN) == expected.result
    if not bit_equal and not failure:
        failure = f"{where}: it ended with {launched.code} and other losses or weights: {launched.last_line}"
    return Trial(resumed=launched.code == 0, bit_equal=bit_equal, caught=caught, failure=failure)


def _reported(launched: Ended) -> bool:
    before = itertools.takewhile(lambda line: not line.startswith("Attempt "), launched.log.splitlines())
    return any(word in line for line in before for word in ("damaged", "is missing", "is older than"))


def _verifies(testbed: Testbed) -> bool:
    """Return whether `verify` finds nothing; files that no manifest names any more count as leftovers."""
    found = verify_place(testbed.store, testbed.prefix)
    return not found.damage and not found.inventory.leftovers
