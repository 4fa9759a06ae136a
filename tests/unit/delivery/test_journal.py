"""A delivery's journal belongs to one process: when another takes it over, the next write of the first raises."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tuneyard.delivery.journal import Held, OpenJournal, read_journal
from tuneyard.errors import ConflictError
from tuneyard.store import open_store

KEY = "default-bucket/models/tiny/.tuneyard/delivering.json"


@pytest.mark.parametrize(
    "write", [lambda journal: journal.add("b", Held(1, "b" * 64)), OpenJournal.confirm], ids=["add", "confirm"]
)
def test_a_journal_that_was_taken_over_refuses_the_first_owner(
    tmp_path: Path, write: Callable[[OpenJournal], None]
) -> None:
    store = open_store(tmp_path.as_uri())
    first = OpenJournal(store, KEY, None, done={"a": Held(1, "a" * 64)}, stale=frozenset(), source="first")
    found = read_journal(store, KEY)
    assert found is not None
    OpenJournal(store, KEY, found, done=dict(found.done), stale=found.stale, source="second")
    taken = store.get(KEY).body
    with pytest.raises(ConflictError, match="Another delivery is writing to"):
        write(first)
    assert store.get(KEY).body == taken


def test_of_two_that_take_a_journal_over_one_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path.as_uri())
    OpenJournal(store, KEY, None, done={}, stale=frozenset(), source="first")
    found = read_journal(store, KEY)
    OpenJournal(store, KEY, found, done={}, stale=frozenset(), source="second")
    with pytest.raises(ConflictError):
        OpenJournal(store, KEY, found, done={}, stale=frozenset(), source="third")
