"""Many conditional writes at the same moment, of which exactly one may win.

The writes go through the store that everything else uses, each from a thread of its own, let go together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tuneyard.diagnosis.check import Check, ok, problem, warning
from tuneyard.diagnosis.scratch import Scratch
from tuneyard.errors import AlreadyExistsError, ChangedError, ConflictError, TuneyardError

CONTENDERS = 32
ROUNDS = 20

_ADVICE = "Launch each run once at a time, or use a server with atomic conditional writes (MinIO, AWS S3)."


def contended_creates(place: Scratch, rounds: int) -> Check:
    """Let `CONTENDERS` create one object at once (`If-None-Match: *`), again and again."""
    name = "conditional create"
    key = place.key("create/first")
    place.store.create(key, b"first")
    try:
        place.store.create(key, b"second")
    except AlreadyExistsError:
        pass
    else:
        return warning(name, "If-None-Match is ignored: a second create writes over the first", _ADVICE)

    def contend(number: int) -> tuple[str, Callable[[bytes], object]]:
        contended = place.key(f"create/{number}")
        return contended, lambda body: place.store.create(contended, body)

    return _told(name, place, rounds, contend)


def contended_replaces(place: Scratch, rounds: int) -> Check:
    """Let `CONTENDERS` replace one version of an object at once (`If-Match`), again and again."""
    name = "conditional replace"
    key = place.key("replace/first")
    old = place.store.put(key, b"first")
    place.store.put(key, b"second")
    try:
        place.store.replace(key, b"third", etag=old)
    except ChangedError:
        pass
    else:
        return warning(name, "If-Match is ignored: a version that is gone can be replaced", _ADVICE)

    def contend(number: int) -> tuple[str, Callable[[bytes], object]]:
        contended = place.key(f"replace/{number}")
        etag = place.store.put(contended, b"before")
        return contended, lambda body: place.store.replace(contended, body, etag=etag)

    return _told(name, place, rounds, contend)


def _told(
    name: str, place: Scratch, rounds: int, contend: Callable[[int], tuple[str, Callable[[bytes], object]]]
) -> Check:
    several, none, other = 0, 0, 0
    with ThreadPoolExecutor(CONTENDERS) as pool:
        for number in range(rounds):
            key, write = contend(number)
            winners = _one_round(pool, write)
            several += len(winners) > 1
            none += not winners
            other += len(winners) == 1 and place.store.get(key).body != winners[0]
    if none or other:
        found = f"in {none} of {rounds} rounds nobody won, in {other} the winner's bytes were not what stayed"
        return problem(name, found, "Use another object store.", TuneyardError)
    if several:
        found = f"races: of {CONTENDERS} at once, several won in {several} of {rounds} rounds"
        return warning(name, found, _ADVICE)
    return ok(name, f"{CONTENDERS} at once, {rounds} rounds: exactly one won each time")


def _one_round(pool: ThreadPoolExecutor, write: Callable[[bytes], object]) -> list[bytes]:
    together = threading.Barrier(CONTENDERS)

    def contend(number: int) -> bytes | None:
        body = f"contender {number}".encode()
        together.wait()
        try:
            write(body)
        except ConflictError:
            return None
        return body

    try:
        return [body for body in pool.map(contend, range(CONTENDERS)) if body is not None]
    finally:
        together.abort()
