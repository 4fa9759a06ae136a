"""Removes objects that no manifest names, and no others.

These are objects of checkpoints that ended attempts never committed, and objects that lie unnamed beside a manifest or
a delivery's journal once they are so old that no process can still be writing them. Manifests, the objects that they
name, HEAD, run.json, metrics and all other objects stay. Unfinished multipart uploads are left to the server to expire:
no method of a store lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

from tuneyard.checkpoints import Head
from tuneyard.inventory.listing import Leftover, readable_head, take_inventory
from tuneyard.store import Store

GRACE = timedelta(days=1)
"""The minimum age of a leftover that a running process may have written."""

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Removal:
    """What was, or would be, removed.

    Attributes:
        removed: The leftovers to remove.
        kept: Those that a process may still be writing.
        bytes: The size of those to remove.
    """

    removed: tuple[Leftover, ...]
    kept: tuple[Leftover, ...]

    @property
    def bytes(self) -> int:
        """The size of the removed objects in bytes."""
        return sum(one.info.size for one in self.removed)


def remove_leftovers(
    store: Store, key: str, *, grace: timedelta = GRACE, now: datetime | None = None, dry_run: bool = False
) -> Removal:
    """Remove the leftovers under a key.

    Safe during running trainings and deliveries: what an ended attempt left can't be committed any more, and everything
    else must be older than `grace`.

    Args:
        store: The store.
        key: As for `take_inventory`.
        grace: The minimum age of leftovers that a process may still be writing.
        now: The time to compute ages from; the current time where None.
        dry_run: Remove nothing.

    Raises:
        NotFoundError: Nothing is there.
        UnavailableError, DeniedError: The store can't be reached, or denies access.
    """
    inventory = take_inventory(store, key)
    until = (now or datetime.now(UTC)) - grace
    heads = {prefix: readable_head(store, prefix) for prefix in inventory.experiments}
    removed = [one for one in inventory.leftovers if one.touched <= until or _is_ended(one, heads)]
    if not dry_run:
        _delete(store, removed, inventory.key)
    gone = set(removed)
    return Removal(tuple(removed), tuple(one for one in inventory.leftovers if one not in gone))


def _is_ended(leftover: Leftover, heads: dict[str, Head | None]) -> bool:
    """Return whether a leftover is of an attempt that can't commit any more."""
    head = heads.get(leftover.experiment)
    return bool(head and leftover.checkpoint and leftover.checkpoint.attempt < head.attempt)


def _delete(store: Store, removed: Iterable[Leftover], key: str) -> None:
    """Delete what is still left over: a manifest that was written since may name some of it."""
    unnamed = {one.info.key for one in take_inventory(store, key).leftovers}
    keys = iter([one.info.key for one in removed if one.info.key in unnamed])
    while batch := list(islice(keys, _AT_ONCE)):
        store.delete(batch)
