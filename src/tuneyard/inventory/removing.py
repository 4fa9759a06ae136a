"""Removes what nothing names, and never what something names.

What may go: objects of checkpoints that ended attempts never committed, and what lies unnamed beside a manifest or
under a delivery's journal once it is old enough that nobody can still be writing it. A manifest, whatever it names,
HEAD, run.json, metrics and files of other shapes stay. Multipart uploads that were never completed are the server's
own to expire: no store verb lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from tuneyard.checkpoints import Head, read_head
from tuneyard.errors import IntegrityError
from tuneyard.inventory.listing import Leftover, take_inventory
from tuneyard.store import Store

GRACE = timedelta(days=1)
"""How old a leftover has to be where a process that still works may have written it."""

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Removal:
    """What was, or would be, removed.

    Attributes:
        removed: The leftovers that go.
        kept: Those that a process may still be writing.
        bytes: The size of what goes.
    """

    removed: tuple[Leftover, ...]
    kept: tuple[Leftover, ...]

    @property
    def bytes(self) -> int:
        """The size of what goes, in bytes."""
        return sum(one.info.size for one in self.removed)


def remove_leftovers(
    store: Store, key: str, *, grace: timedelta = GRACE, now: datetime | None = None, dry_run: bool = False
) -> Removal:
    """Remove what nothing names under a key.

    Safe beside trainings and deliveries that work: what an ended attempt left can't be committed any more, and
    everything else has to be older than `grace`.

    Args:
        store: The store.
        key: As for `take_inventory`.
        grace: How old a leftover has to be that somebody may still be writing.
        now: The moment that ages count from.
        dry_run: Remove nothing.

    Raises:
        NotFoundError: Nothing is there.
        UnavailableError, DeniedError: The store can't be reached, or refuses the credentials.
    """
    inventory = take_inventory(store, key)
    until = (now or datetime.now(UTC)) - grace
    heads = {prefix: _head(store, prefix) for prefix in inventory.experiments}
    going = [one for one in inventory.leftovers if one.touched <= until or _is_ended(one, heads)]
    if not dry_run:
        _delete(store, going, inventory.key)
    gone = set(going)
    return Removal(tuple(going), tuple(one for one in inventory.leftovers if one not in gone))


def _is_ended(leftover: Leftover, heads: dict[str, Head | None]) -> bool:
    """Tell whether a leftover is of an attempt that can't commit any more."""
    head = heads.get(leftover.experiment)
    return bool(head and leftover.checkpoint and leftover.checkpoint.attempt < head.attempt)


def _head(store: Store, prefix: str) -> Head | None:
    try:
        found = read_head(store, prefix)
    except IntegrityError:  # then only age decides
        return None
    return found[0] if found else None


def _delete(store: Store, going: Iterable[Leftover], key: str) -> None:
    """Delete, after another look: a manifest that has come since may name some of it."""
    unnamed = {one.info.key for one in take_inventory(store, key).leftovers}
    keys = iter([one.info.key for one in going if one.info.key in unnamed])
    while batch := list(islice(keys, _AT_ONCE)):
        store.delete(batch)
