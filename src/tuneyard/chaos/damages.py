"""Damage to what a training goes on from: each file class, changed as disks, copies and people change files.

A training is killed on its way, once. Then, again and again, one file of its experiment, its model or its data is
damaged, and the training is launched: it has to tell the damage, or to end with exit 7, 4 or 6, before its first step;
`verify` has to find it too. Then everything is put back.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuneyard.chaos.ground import Ended, Ground
from tuneyard.chaos.kills import Reference, last_words
from tuneyard.chaos.outcome import Trial
from tuneyard.errors import ConflictError, IntegrityError, NotFoundError, TuneyardError
from tuneyard.inventory import verify_place

RUN = "damaged"
_REFUSALS = (IntegrityError.exit_code, NotFoundError.exit_code, ConflictError.exit_code)
"""Damaged; not there; other model or data than the run was begun with, where a manifest lies in another one's place."""

Objects = dict[str, bytes]
Mutation = Callable[[Objects, str, random.Random], None]
"""Damages the object of a key, in place."""


def _flip(objects: Objects, key: str, chance: random.Random) -> None:
    body = bytearray(objects[key])
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    objects[key] = bytes(body)


def _truncate(objects: Objects, key: str, chance: random.Random) -> None:
    objects[key] = objects[key][: chance.randrange(len(objects[key]))]


def _swap(objects: Objects, key: str, chance: random.Random) -> None:
    """Exchange it with another object: two files renamed into one another."""
    # Rows of metrics that go on after the same ones are as good.
    others = sorted(other for other, body in objects.items() if not body.startswith(objects[key]))
    other = chance.choice(others)
    objects[key], objects[other] = objects[other], objects[key]


def _delete(objects: Objects, key: str, chance: random.Random) -> None:
    del chance
    del objects[key]


MUTATIONS: dict[str, Mutation] = {"bit flip": _flip, "truncation": _truncate, "swap": _swap, "deletion": _delete}
STALE = "stale mix"
"""One file of the newest checkpoint is that of the one before."""

CLASSES: dict[str, str] = {
    "weights": "*/damaged/{newest}/*.safetensors",
    "optimizer": "*/damaged/{newest}/optimizer.pt",
    "scheduler": "*/damaged/{newest}/scheduler.pt",
    "random numbers": "*/damaged/{newest}/rng_state*.pth",
    "trainer state": "*/damaged/{newest}/trainer_state.json",
    "counters": "*/damaged/{newest}/counters.json",
    "rows of metrics": "*/damaged/{newest}/metrics.jsonl",
    "adapter's settings": "*/damaged/{newest}/adapter_config.json",
    "checkpoint's manifest": "*/damaged/{newest}/manifest.json",
    "HEAD": "*/damaged/HEAD",
    "run's record": "*/damaged/run.json",
    "published metrics": "*/damaged/metrics.jsonl",
    "base weights": "*/models/*.safetensors",
    "base settings": "*/models/*/config.json",
    "tokenizer": "*/models/*/tokenizer.json",
    "base manifest": "*/models/*/manifest.json",
    "data": "*/datasets/*.jsonl",
    "data's manifest": "*/datasets/.tuneyard/*",
}
"""File classes, each with the pattern of its keys."""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A killed training that can be put back to how the kill left it.

    Attributes:
        objects: Everything below the ground's prefix.
        newest: The newest committed checkpoint's name.
        before: The name of the one before.
    """

    objects: Mapping[str, bytes]
    newest: str
    before: str


def killed_on_its_way(ground: Ground, known: Reference) -> Damaged:
    """Make a killed training with two committed checkpoints.

    Args:
        ground: Where.
        known: The training that nobody disturbed.

    Raises:
        TuneyardError: That did not work.
    """
    for share in (0.7, 0.65, 0.75, 0.6, 0.8, 0.55, 0.5):
        ground.remove(RUN)
        ended = ground.train(RUN, request=int(share * known.requests))
        committed = ground.committed(RUN)
        if ended.code == -9 and len(committed) >= 2 and ground.result(RUN) is None:
            ground.forget_machine(RUN)
            objects = ground.snapshot(f"{ground.prefix}/")
            newest, before = committed[0].name, committed[1].name
            # Rows after the newest checkpoint are of no use to anybody who goes on from it.
            published = f"{ground.experiment(RUN)}/metrics.jsonl"
            objects[published] = objects[published.replace("metrics.jsonl", f"{newest}/metrics.jsonl")]
            return Damaged(objects, newest, before)
    raise TuneyardError(
        "No training could be killed between two checkpoints.",
        hint="See whether trainings work here: tuneyard doctor",
    )


def damages(
    ground: Ground, known: Reference, killed: Damaged, trials: int, *, seed: int, first: int = 0, to_end: int = 10
) -> Iterator[Trial]:
    """Damage one file at a time.

    Args:
        ground: Where.
        known: The training that nobody disturbed.
        killed: The training to damage.
        trials: How many.
        seed: Of the damages; with `first` it makes any trial happen again.
        first: The number of the first trial.
        to_end: Every so many trials the training is let run to its end and compared.
    """
    kinds = _kinds(killed)
    random.Random(seed).shuffle(kinds)  # noqa: S311 - damages, no secrets
    for number in range(first, first + trials):
        name, mutation = kinds[number % len(kinds)]
        chance = random.Random(f"{seed} {number}")  # noqa: S311
        objects = dict(killed.objects)
        key = chance.choice(_keys(killed, name))
        if mutation == STALE:
            objects[key] = _of_before(killed, key)
        else:
            MUTATIONS[mutation](objects, key, chance)
        where = f"{mutation} of {name} (trial {number} of seed {seed})"
        ground.put_back(f"{ground.prefix}/", objects)
        yield _trial(ground, known, killed, where, to_end=number % to_end == 0)
        ground.forget_machine(RUN)


def _kinds(killed: Damaged) -> list[tuple[str, str]]:
    """List each file class with each mutation that changes it."""
    stale = [
        name for name in CLASSES if any(_of_before(killed, key) != killed.objects[key] for key in _keys(killed, name))
    ]
    return [*itertools.product(CLASSES, MUTATIONS), *((name, STALE) for name in stale)]


def _keys(killed: Damaged, name: str) -> list[str]:
    pattern = CLASSES[name].format(newest=killed.newest)
    return sorted(key for key in killed.objects if fnmatchcase(key, pattern))


def _of_before(killed: Damaged, key: str) -> bytes:
    return killed.objects[key.replace(f"/{killed.newest}/", f"/{killed.before}/")]


def _trial(ground: Ground, known: Reference, killed: Damaged, where: str, *, to_end: bool) -> Trial:
    unverified = _not_found(ground)
    launched = ground.train(RUN, **({} if to_end else {"until": ["attempt "]}))
    refused = launched.code in _REFUSALS
    caught = refused or _told(launched)
    wrong = ""
    if not caught:
        wrong = f"{where} was not told before the first step: {last_words(launched.log)}"
    elif launched.code not in (0, -9) and not refused:
        wrong = f"{where} ended with {launched.code}: {last_words(launched.log)}"
    elif unverified:
        wrong = f"{where} was not found by verify"
    if not to_end or refused:
        return Trial(caught=caught, wrong=wrong)
    bit_equal = launched.code == 0 and ground.result(RUN) == known.result
    if not bit_equal and not wrong:
        wrong = f"{where}: it ended with {launched.code} and other losses or weights: {last_words(launched.log)}"
    return Trial(resumed=launched.code == 0, bit_equal=bit_equal, caught=caught, wrong=wrong)


def _told(launched: Ended) -> bool:
    before = itertools.takewhile(lambda line: not line.startswith("attempt "), launched.log.splitlines())
    return any(word in line for line in before for word in ("damaged", "is missing", "is older than"))


def _not_found(ground: Ground) -> bool:
    """Whether `verify` finds nothing; files that a manifest named and nothing names now are told as leftovers."""
    found = verify_place(ground.store, ground.prefix)
    return not found.damage and not found.inventory.leftovers
