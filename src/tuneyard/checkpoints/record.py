"""run.json: the settings of an experiment, and its attempts.

It is for people and reports and can be read at any time; HEAD, not run.json, decides who may write. The trainer fills a
`RunRecord`; each attempt adds one entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tuneyard.checkpoints.head import while_contended
from tuneyard.checkpoints.seal import SEAL, from_sealed_json, to_sealed_json
from tuneyard.errors import ConflictError, IntegrityError, NotFoundError
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
        from_step: The step that it resumed from: 0 for a fresh start, None where it ended before that was known.
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
    """The contents of run.json.

    Attributes:
        name: The run's name.
        values: The resolved values, as plain JSON.
        values_sha256: Their hash.
        versions: Versions of Python, Tuneyard and the libraries that compute.
        inputs: The content hash of each model and dataset, by key.
        fingerprint: The settings that must not change within the experiment; a flat mapping of plain JSON values.
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
        """Return it as sealed JSON."""
        return to_sealed_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, body: bytes, *, where: str) -> RunRecord:
        """Parse what `to_json` returned.

        Raises:
            IntegrityError: It is damaged, or of an unknown format.
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
                f"'{where}' can't be read as the record of a run: {error}.",
                hint="Update Tuneyard if a newer version wrote it; otherwise restore it from a backup of the bucket.",
                key=where,
            ) from error


def check_fingerprint(
    old: Mapping[str, Any], new: Mapping[str, Any], *, where: str, assumed: Mapping[str, Any], partial: bool = False
) -> None:
    """Check that an experiment continues with the settings that it was started with.

    Args:
        old: The experiment's fingerprint.
        new: The current settings' fingerprint.
        where: The experiment's key, for messages.
        assumed: The values of keys that `old` lacks. Where the two differ in `format`, only keys that both have are
            compared.
        partial: Whether `new` is still incomplete: keys that it lacks are not compared.

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
        f"The experiment '{where}' was started with different settings: {changes}.",
        hint="Use another checkpointsRemote and another name "
        f"({fitting('--name', 'the release')}) for the new settings, or restore the old ones.",
        differing={key: (before.get(key), now.get(key)) for key in keys},
    )


def _plain(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a fingerprint as it is read from a file, where tuples are lists."""
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
    """Return the key of an experiment's run.json."""
    return f"{prefix}/run.json"


def enter_attempt(store: Store, prefix: str, record: RunRecord, entry: AttemptEntry) -> None:
    """Write run.json with one attempt's entry added or updated.

    It keeps the values of the newest attempt, whichever writes last.

    Args:
        store: The store.
        prefix: The experiment's key.
        record: The settings of this attempt.
        entry: This attempt.
    """
    while_contended(100)(_enter_once, store, prefix, record, entry)


def _enter_once(store: Store, prefix: str, record: RunRecord, entry: AttemptEntry) -> None:
    key = record_key(prefix)
    try:
        stored = store.get(key)
    except NotFoundError:
        store.create(key, replace(record, attempts=(entry,)).to_json())
        return
    try:
        existing = RunRecord.from_json(stored.body, where=key)
    except IntegrityError:
        # HEAD decides; a damaged record must not stop a training.
        existing = record
    entries = {**{known.number: known for known in existing.attempts}, entry.number: entry}
    newest = record if entry.number == max(entries) else existing
    body = replace(newest, attempts=tuple(entries[number] for number in sorted(entries))).to_json()
    if body != stored.body:
        store.replace(key, body, etag=stored.etag)
