"""Concurrent conditional writes, of which exactly one may succeed.

The writes go through the store that the rest of Tuneyard uses, each from its own thread, released together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tuneyard.diagnosis.check import Check, ok, problem, warning
from tuneyard.diagnosis.scratch_prefix import ScratchPrefix
from tuneyard.errors import AlreadyExistsError, ChangedError, ConflictError, TuneyardError

WRITERS = 32
ROUNDS = 20

_ADVICE = "Never launch a run twice at the same time, or use a server with atomic conditional writes (MinIO, AWS S3)."

Write = Callable[[bytes], object]


def conditional_create(scratch: ScratchPrefix, rounds: int) -> Check:
    """Let `WRITERS` threads create the same object at once (`If-None-Match: *`).

    Args:
        scratch: Where to write.
        rounds: How many objects to contend for.
    """
    name = "conditional create"
    key = scratch.key("create/first")
    scratch.store.create(key, b"first")
    try:
        scratch.store.create(key, b"second")
    except AlreadyExistsError:
        pass
    else:
        return warning(name, "If-None-Match is ignored: a second create overwrites the first", _ADVICE)

    def start_round(number: int) -> tuple[str, Write]:
        contended = scratch.key(f"create/{number}")
        return contended, lambda body: scratch.store.create(contended, body)

    return _contend(name, scratch, rounds, start_round)


def conditional_replace(scratch: ScratchPrefix, rounds: int) -> Check:
    """Let `WRITERS` threads replace the same version of an object at once (`If-Match`).

    Args:
        scratch: Where to write.
        rounds: How many objects to contend for.
    """
    name = "conditional replace"
    key = scratch.key("replace/first")
    old = scratch.store.put(key, b"first")
    scratch.store.put(key, b"second")
    try:
        scratch.store.replace(key, b"third", etag=old)
    except ChangedError:
        pass
    else:
        return warning(name, "If-Match is ignored: a stale version can be replaced", _ADVICE)

    def start_round(number: int) -> tuple[str, Write]:
        contended = scratch.key(f"replace/{number}")
        etag = scratch.store.put(contended, b"before")
        return contended, lambda body: scratch.store.replace(contended, body, etag=etag)

    return _contend(name, scratch, rounds, start_round)


def _contend(name: str, scratch: ScratchPrefix, rounds: int, start_round: Callable[[int], tuple[str, Write]]) -> Check:
    several, none, lost = 0, 0, 0
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(rounds):
            key, write = start_round(number)
            winners = _one_round(pool, write)
            several += len(winners) > 1
            none += not winners
            lost += len(winners) == 1 and scratch.store.get(key).body != winners[0]
    if none or lost:
        found = f"no write succeeded in {none} of {rounds} rounds, and the successful write was lost in {lost}"
        return problem(name, found, "Use another object store.", TuneyardError)
    if several:
        found = f"not atomic: several of {WRITERS} concurrent writes succeeded in {several} of {rounds} rounds"
        return warning(name, found, _ADVICE)
    return ok(name, f"exactly one of {WRITERS} concurrent writes succeeded in each of {rounds} rounds")


def _one_round(pool: ThreadPoolExecutor, write: Write) -> list[bytes]:
    barrier = threading.Barrier(WRITERS)

    def contend(number: int) -> bytes | None:
        body = f"writer {number}".encode()
        barrier.wait()
        try:
            write(body)
        except ConflictError:
            return None
        return body

    try:
        return [body for body in pool.map(contend, range(WRITERS)) if body is not None]
    finally:
        barrier.abort()
