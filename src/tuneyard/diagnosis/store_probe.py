"""The probe of an object store: what Tuneyard's protocol relies on, tried out, and the mode it would run in.

`python -m tuneyard.diagnosis` runs it where the store is used, for instance in a pod.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from tuneyard.diagnosis.check import Check, Report, of_error, problem, report
from tuneyard.diagnosis.contenders import ROUNDS, contended_creates, contended_replaces
from tuneyard.diagnosis.modes import LEFTOVER_PARTS, SINGLE_WRITER, UNCHECKED_UPLOADS, UNUSABLE, Mode, mode_of
from tuneyard.diagnosis.scratch import Scratch, scratch
from tuneyard.diagnosis.signed import SignedClient
from tuneyard.diagnosis.store_checks import (
    aborted_multipart,
    checksums,
    listing,
    multipart,
    nested_keys,
    odd_keys,
    range_reads,
    read_after_write,
    sorted_listing,
)
from tuneyard.errors import TuneyardError
from tuneyard.store import Store, find_store

BUCKET = "default-bucket"

Progress = Callable[[str], None]
_Probe = Callable[[Scratch], Check]

# by the check's name: the mode that its warning puts the store into
_MODES: dict[str, Mode] = {
    "conditional create": SINGLE_WRITER,
    "conditional replace": SINGLE_WRITER,
    "wrong checksums": UNCHECKED_UPLOADS,
    "aborted upload": LEFTOVER_PARTS,
}
_QUICK: dict[str, _Probe] = {
    "read after write": read_after_write,
    "range reads": range_reads,
}
_FURTHER: dict[str, _Probe] = {
    "odd key characters": odd_keys,
    "keys below an object": nested_keys,
    "listing": listing,
    "order of listing": sorted_listing,
    "wrong checksums": checksums,
    "multipart upload": multipart,
    "aborted upload": aborted_multipart,
}


def probe_store(
    url: str | None = None,
    *,
    bucket: str = BUCKET,
    rounds: int = ROUNDS,
    quick: bool = False,
    environ: Mapping[str, str] | None = None,
    ca_bundle: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Probe an object store for what the protocol relies on.

    Everything is written below one prefix of the bucket and removed in the end, however the probe ends.

    Args:
        url: The store; where None, `TUNEYARD_STORE` or the default folder.
        bucket: The bucket to write into.
        rounds: How often the conditional writes contend.
        quick: Only whether it can be reached, written and read.
        environ: Where `AWS_*` is read from; the process's own environment where None.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's.
        progress: Called with the name of each check before it is made.

    Returns:
        The report; its facts are `mode` (`full`, `degraded`, `unusable`), `degraded` (the modes, each with what it
        loses) and `server` (what the server calls itself).
    """
    say = progress or _nothing
    environ = os.environ if environ is None else environ
    try:
        store = find_store(url, environ=environ, ca_bundle=ca_bundle)
        with _raw_client(store, environ, ca_bundle) as raw, scratch(store, bucket, raw) as place:
            checks = [_reached(place, say)]
            server = raw.send("GET", bucket, {"location": ""}).headers.get("server", "") if raw else ""
            for name, probe in _probes(rounds, quick=quick).items():
                say(name)
                checks.append(_made(name, probe, place))
    except TuneyardError as error:
        return report(_shown(url), [of_error("store", error)], mode=UNUSABLE, degraded=[], server="")
    degraded = {_MODES[check.name].name: _MODES[check.name] for check in checks if _degrades(check)}
    unusable = any(check.outcome == "problem" for check in checks)
    facts = {
        "mode": mode_of(degraded.values(), unusable=unusable),
        "degraded": [{"name": mode.name, "loses": mode.loses, "still": mode.still} for mode in degraded.values()],
        "server": server,
    }
    return report(f"store {store.url}", checks, **facts)


def _probes(rounds: int, *, quick: bool) -> dict[str, _Probe]:
    if quick:
        return _QUICK
    contending: dict[str, _Probe] = {
        "conditional create": lambda place: contended_creates(place, rounds),
        "conditional replace": lambda place: contended_replaces(place, rounds),
    }
    return {**_QUICK, **contending, **_FURTHER}


def _reached(place: Scratch, say: Progress) -> Check:
    say("store")
    place.store.put(place.key("reached"), b"tuneyard doctor")
    return Check("store", "ok", f"{place.store.url} can be reached, and {place.bucket} written")


def _made(name: str, probe: _Probe, place: Scratch) -> Check:
    try:
        return probe(place)
    except TuneyardError as error:
        return problem(name, error.message.rstrip("."), error.hint or "Use another object store.", type(error))


def _degrades(check: Check) -> bool:
    return check.outcome == "warning" and check.name in _MODES


@contextlib.contextmanager
def _raw_client(store: Store, environ: Mapping[str, str], ca_bundle: Path | None) -> Generator[SignedClient | None]:
    """Give signed requests to the store's server; None for a folder, and without static keys."""
    if store.url.startswith("file:"):
        yield None
        return
    from tuneyard.store.s3_settings import read_settings

    settings = read_settings("" if store.url == "s3://" else store.url, environ, ca_bundle)
    if not settings.keys:
        yield None
        return
    with SignedClient(settings) as client:
        yield client


def _shown(url: str | None) -> str:
    """Leave credentials out of a URL that was refused for them."""
    return f"store {url.rsplit('@', 1)[-1]}" if url else "store"


def _nothing(name: str) -> None:
    del name
