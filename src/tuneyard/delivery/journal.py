"""The journal of a delivery in progress: which files are done, and which process is delivering.

It lies beside the manifest until that is written, so that a killed delivery resumes file by file. Each change replaces
the version that this process wrote: a process that takes a journal over stops the one before at its next file. Readers
of models never read it; they trust the manifest alone.
"""

from __future__ import annotations

import json
import secrets
import threading
from dataclasses import asdict, dataclass
from typing import Any, cast

from tuneyard.delivery.checks import Held
from tuneyard.errors import AlreadyExistsError, ChangedError, ConflictError, InvalidValuesError, NotFoundError
from tuneyard.store import FileEntry, Store

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of an unfinished delivery.

    Attributes:
        done: The files that it finished, by path.
        stale: Keys of objects that its manifest would no longer name.
        etag: The version read.
    """

    done: dict[str, Held]
    stale: frozenset[str]
    etag: str


def read_journal(store: Store, key: str) -> Journal | None:
    """Read the journal of an unfinished delivery; None where there is none."""
    try:
        stored = store.get(key)
    except NotFoundError:
        return None
    try:
        document = cast("dict[str, Any]", json.loads(stored.body))
        if document["format"] != _FORMAT:
            raise ValueError
        done = {path: held for path, facts in document["done"].items() if (held := _held(path, facts))}
        return Journal(done=done, stale=frozenset(map(str, document["stale"])), etag=stored.etag)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # another version's or a damaged one: it counts no file as done, but a delivery was in progress here
        return Journal(done={}, stale=frozenset(), etag=stored.etag)


def _held(path: str, facts: Any) -> Held | None:
    """Read a journal's entry of a file; None where no delivery could have written it."""
    if not isinstance(facts, dict):
        return None
    given = cast("dict[str, Any]", facts)
    if not isinstance(given.get("size"), int) or not isinstance(given.get("version", ""), str):
        return None
    try:
        held = Held(**given)
        FileEntry(path, held.size, held.sha256)
    except (TypeError, InvalidValuesError):
        return None
    return held


class OpenJournal:
    """The journal that this process writes.

    Args:
        store: The store to deliver to.
        key: The journal's key.
        before: What `read_journal` found; None for nothing.
        done: The files that need no transfer, by path.
        stale: Keys of objects to delete before the manifest is written.
        source: The source in words, for people who read the journal.

    Raises:
        ConflictError: Another process has just begun to deliver to the same place.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        before: Journal | None,
        *,
        done: dict[str, Held],
        stale: frozenset[str],
        source: str,
    ) -> None:
        self.done, self.stale = dict(done), stale
        self._store, self._key, self._source = store, key, source
        self._lock = threading.Lock()
        self._owner, self._written = secrets.token_hex(8), 0
        try:
            body = self._body()
            self._etag = store.create(key, body) if before is None else store.replace(key, body, etag=before.etag)
        except (AlreadyExistsError, ChangedError) as error:
            raise self._conflict() from error

    def add(self, path: str, held: Held) -> None:
        """Record a file as done. May be called from several threads.

        Raises:
            ConflictError: Another process has taken the delivery over.
        """
        with self._lock:
            self.done[path] = held
            self._replace()

    def confirm(self) -> None:
        """Check that no other process has taken the delivery over.

        Raises:
            ConflictError: Another process has taken the delivery over.
        """
        with self._lock:
            self._replace()

    def remove(self) -> None:
        """Remove the journal, after the manifest is written."""
        self._store.delete([self._key])

    def _replace(self) -> None:
        try:
            self._etag = self._store.replace(self._key, self._body(), etag=self._etag)
        except ChangedError as error:
            raise self._conflict() from error

    def _body(self) -> bytes:
        self._written += 1  # with the owner's nonce, no two bodies are equal, as conditional writes require
        document = {
            "format": _FORMAT,
            "owner": f"{self._owner}-{self._written}",
            "source": self._source,
            "done": {path: asdict(held) for path, held in sorted(self.done.items())},
            "stale": sorted(self.stale),
        }
        return json.dumps(document, indent=1).encode()

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"Another delivery is writing to '{self._key}' in '{self._store.url}'; this one has stopped.",
            hint="Wait until the other one has finished, then deliver again.",
            key=self._key,
        )
