"""Probe an object store: test what Tuneyard's protocol relies on, and determine the mode the store is used in.

`python -m tuneyard.diagnosis` runs the probe from where the store is used, such as a pod.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

from tuneyard.diagnosis.check import Check, Report, from_error, ok, report
from tuneyard.diagnosis.contention import ROUNDS, conditional_create, conditional_replace
from tuneyard.diagnosis.scratch_prefix import ScratchPrefix, scratch_prefix
from tuneyard.diagnosis.sigv4 import SigV4Client
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
from tuneyard.diagnosis.store_modes import (
    LEFTOVER_PARTS,
    SINGLE_WRITER,
    UNCHECKED_UPLOADS,
    UNUSABLE,
    Mode,
    overall_mode,
)
from tuneyard.errors import TuneyardError
from tuneyard.store import Store, find_store

BUCKET = "default-bucket"

Progress = Callable[[str], None]
_Probe = Callable[[ScratchPrefix], Check]

# the degraded mode that a check's warning implies, by the check's name
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

    The probe writes below a single prefix of the bucket, and removes it however it ends.

    Args:
        url: The store's URL; `TUNEYARD_STORE` or the default folder where None.
        bucket: The bucket to write into.
        rounds: Rounds of concurrent conditional writes.
        quick: Check only that the store is reachable, writable and readable.
        environ: The environment to read `AWS_*` from; this process's where None.
        ca_bundle: A PEM file of certificate authorities to trust in addition to the system's.
        progress: Called with the name of each check before it starts.

    Returns:
        The report; its facts are `mode` (`full`, `degraded`, `unusable`), `degraded` (the degraded modes) and `server`
        (the server's `Server` header).
    """
    notify = progress or _ignore
    environ = os.environ if environ is None else environ
    try:
        store = find_store(url, environ=environ, ca_bundle=ca_bundle)
        with _raw_client(store, environ, ca_bundle) as raw, scratch_prefix(store, bucket, raw) as scratch:
            notify("store")
            checks = [_reachable(scratch)]
            server = raw.send("GET", bucket, {"location": ""}).headers.get("server", "") if raw else ""
            for name, probe in _probes(rounds, quick=quick).items():
                notify(name)
                checks.append(_run(name, probe, scratch))
    except TuneyardError as error:
        return report(_about(url), [from_error("store", error)], mode=UNUSABLE, degraded=[], server="")
    degraded = {_MODES[check.name].name: _MODES[check.name] for check in checks if _degrades(check)}
    unusable = any(check.outcome == "problem" for check in checks)
    facts = {
        "mode": overall_mode(degraded.values(), unusable=unusable),
        "degraded": [{"name": mode.name, "loses": mode.loses, "still": mode.still} for mode in degraded.values()],
        "server": server,
    }
    return report(f"store {store.url}", checks, **facts)


def _probes(rounds: int, *, quick: bool) -> dict[str, _Probe]:
    if quick:
        return _QUICK
    conditional: dict[str, _Probe] = {
        "conditional create": lambda scratch: conditional_create(scratch, rounds),
        "conditional replace": lambda scratch: conditional_replace(scratch, rounds),
    }
    return {**_QUICK, **conditional, **_FURTHER}


def _reachable(scratch: ScratchPrefix) -> Check:
    scratch.store.put(scratch.key("reachable"), b"tuneyard doctor")
    return ok("store", f"'{scratch.store.url}' is reachable, and bucket '{scratch.bucket}' is writable")


def _run(name: str, probe: _Probe, scratch: ScratchPrefix) -> Check:
    try:
        return probe(scratch)
    except TuneyardError as error:
        return from_error(name, error, "Use another object store.")


def _degrades(check: Check) -> bool:
    return check.outcome == "warning" and check.name in _MODES


@contextlib.contextmanager
def _raw_client(store: Store, environ: Mapping[str, str], ca_bundle: Path | None) -> Generator[SigV4Client | None]:
    """Open a client to the store's server; None for a folder, and without static keys."""
    if store.url.startswith("file:"):
        yield None
        return
    from tuneyard.store import read_settings

    settings = read_settings("" if store.url == "s3://" else store.url, environ, ca_bundle)
    if not settings.keys:
        yield None
        return
    with SigV4Client(settings) as client:
        yield client


def _about(url: str | None) -> str:
    """Name the store without the credentials that its URL may hold."""
    return f"store {url.rsplit('@', 1)[-1]}" if url else "store"


def _ignore(name: str) -> None:
    del name
