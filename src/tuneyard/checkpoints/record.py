"""run.json: what an experiment was trained with, and which attempts took part.

It is for people and for reports: it can be read at any time, and nothing decides by it who may write (HEAD does). The
trainer fills a `RunRecord`; each attempt adds one entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from tuneyard.checkpoints.seal import SEAL, from_sealed_json, to_sealed_json
from tuneyard.errors import AlreadyExistsError, ChangedError, ConflictError, IntegrityError, NotFoundError
from tuneyard.store import Store
from tuneyard.whereabouts import fitting

FORMAT = 1
"""The version of run.json's form."""

_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One attempt at an experiment.

    Attributes:
        number: Its number, 1 for the first.
        owner: Its random name, as in HEAD.
        host: The machine or pod it ran on.
        started_at: When it took the experiment over, in UTC, ISO 8601.
        from_step: The step it went on from: 0 for a fresh start, None where it ended before that was known.
        values_sha256: The hash of the values it ran with.
    """

    number: int
    owner: str
    host: str
    started_at: str
    from_step: int | None
    values_sha256: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What run.json says.

    Attributes:
        name: The run's name.
        values: The resolved values, as plain JSON.
        values_sha256: Their hash.
        versions: Versions of Python, Tuneyard and the libraries that make the numbers.
        inputs: The content hash of each model and data file that went in, by key.
        fingerprint: What may not change under one experiment; a flat mapping of plain JSON values.
        attempts: Every attempt so far; `Experiment.claim` fills it.
    """

    name: str
    values: Mapping[str, Any]
    values_sha256: str
    versions: Mapping[str, str]
    inputs: Mapping[str, str]
    fingerprint: Mapping[str, Any]
    attempts: tuple[AttemptEntry, ...] = field(default=())

    def to_json(self) -> bytes:
        """Write it as sealed JSON."""
        return to_sealed_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, body: bytes, *, where: str) -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            IntegrityError: It is damaged, or of a format that this version does not know.
        """
        try:
            facts = from_sealed_json(body, where=where)
            del facts[SEAL]
            if facts.pop("format") != FORMAT:
                raise ValueError("unknown format")
            attempts = tuple(AttemptEntry(**entry) for entry in facts.pop("attempts"))
            return cls(**facts, attempts=attempts)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityError(
                f"{where} can't be read as the record of a run ({error}).",
                hint="Update Tuneyard if a newer version wrote it; else bring it back from a backup of the bucket.",
                key=where,
            ) from error


def check_fingerprint(
    old: Mapping[str, Any], new: Mapping[str, Any], *, where: str, assumed: Mapping[str, Any], partial: bool = False
) -> None:
    """Check that an experiment goes on with the settings it was begun with.

    Args:
        old: The experiment's fingerprint.
        new: What is asked for now.
        where: The experiment's key, for the error's words.
        assumed: What a key stands for that `old` lacks. Where the two have another `format`, the keys that both have
            are compared, and no others.
        partial: Whether `new` is not known whole yet: keys that it lacks are not compared.

    Raises:
        ConflictError: Some settings differ; `details["differing"]` has each key with both values.
    """
    before, now = _plain(old), _plain(new)
    if before.get("format") != now.get("format"):
        shared = (before.keys() & now.keys()) - {"format"}
        before, now = ({key: each[key] for key in shared} for each in (before, now))
    if partial:
        before = {key: value for key, value in before.items() if key in now}
    before = {**{key: value for key, value in _plain(assumed).items() if key in now}, **before}
    keys = sorted({key for key in {*before, *now} if key not in before or key not in now or before[key] != now[key]})
    if not keys:
        return
    changes = ", ".join(f"{key}: {_shown(before, key)} → {_shown(now, key)}" for key in keys)
    raise ConflictError(
        f"{where} was begun with other settings; {changes}.",
        hint="Give the new settings another checkpointsRemote and another name "
        f"({fitting('--name', 'the release')}), or put the old ones back.",
        differing={key: (before.get(key), now.get(key)) for key in keys},
    )


def _plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Give what comes back from a file: tuples are lists there."""
    return json.loads(json.dumps(dict(fingerprint)))


def _shown(fingerprint: Mapping[str, Any], key: str) -> str:
    if key not in fingerprint:
        return "not set"
    text = json.dumps(fingerprint[key], ensure_ascii=False)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"


def read_record(store: Store, prefix: str) -> RunRecord | None:
    """Read an experiment's run.json; None where there is none.

    Raises:
        IntegrityError: It is damaged.
    """
    key = record_key(prefix)
    try:
        return RunRecord.from_json(store.get(key).body, where=key)
    except NotFoundError:
        return None


def record_key(prefix: str) -> str:
    """Tell where an experiment's run.json lies."""
    return f"{prefix}/run.json"


def enter_attempt(store: Store, prefix: str, record: RunRecord, entry: AttemptEntry) -> None:
    """Write run.json with one attempt's entry added or renewed.

    The values of the greatest attempt stand, whoever writes last.

    Args:
        store: Where the experiment lies.
        prefix: The experiment's key.
        record: What this attempt runs with.
        entry: This attempt.
    """
    contended = retry_if_exception_type((ChangedError, AlreadyExistsError))
    patiently = Retrying(retry=contended, stop=stop_after_attempt(100), wait=wait_random(0, 0.1), reraise=True)
    patiently(_enter_once, store, prefix, record, entry)


def _enter_once(store: Store, prefix: str, record: RunRecord, entry: AttemptEntry) -> None:
    key = record_key(prefix)
    try:
        stored = store.get(key)
    except NotFoundError:
        store.create(key, replace(record, attempts=(entry,)).to_json())
        return
    try:
        there = RunRecord.from_json(stored.body, where=key)
    except IntegrityError:
        # HEAD has what decides; a damaged record is not worth stopping a training for.
        there = record
    entries = {**{known.number: known for known in there.attempts}, entry.number: entry}
    newest = record if entry.number == max(entries) else there
    body = replace(newest, attempts=tuple(entries[number] for number in sorted(entries))).to_json()
    if body != stored.body:
        store.replace(key, body, etag=stored.etag)
