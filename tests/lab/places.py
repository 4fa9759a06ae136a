"""A place in a store: what tests of the store's contract are handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuneyard.store import Store


@dataclass(frozen=True)
class Place:
    """A store under test: how to open it, and a prefix of this test alone."""

    store: Store
    prefix: str
    env: Mapping[str, str]
    """What another process needs in its environment to open the same store."""

    def __truediv__(self, path: str) -> str:
        return self.prefix + path
