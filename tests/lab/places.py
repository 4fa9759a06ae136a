"""A store with a prefix for one test, for the tests of the store's contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuneyard.store import Store


@dataclass(frozen=True)
class Place:
    """A store under test, and a prefix that only this test uses."""

    store: Store
    prefix: str
    env: Mapping[str, str]
    """The environment in which another process opens the same store."""

    def __truediv__(self, path: str) -> str:
        return self.prefix + path
