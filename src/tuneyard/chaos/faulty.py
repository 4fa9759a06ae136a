"""A store with something put in front of each call: a count, a fault, the end of the process.

The store behind is a real one, and this is handed in as any store is.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tuneyard.store import Digest, ObjectInfo, Store, Stored

Around = Callable[[str, str], None]
"""Called with the verb and its key; what it raises, the caller gets instead."""


class FaultyStore:
    """A store in front of another that does something before or after chosen calls.

    Args:
        store: The real one.
        before: Called before the verb is done.
        after: Called when it was done.
    """

    def __init__(self, store: Store, *, before: Around | None = None, after: Around | None = None) -> None:
        self._store = store
        self._before = before or _nothing
        self._after = after or _nothing

    def _around(self, verb: str, key: str, work: Callable[[], Any]) -> Any:
        self._before(verb, key)
        result = work()
        self._after(verb, key)
        return result

    @property
    def url(self) -> str:
        """The real store's URL."""
        return self._store.url

    def get(self, key: str) -> Stored:
        """Read a whole small object."""
        return self._around("get", key, lambda: self._store.get(key))

    def put(self, key: str, body: bytes) -> str:
        """Write a small object over whatever is there."""
        return self._around("put", key, lambda: self._store.put(key, body))

    def create(self, key: str, body: bytes) -> str:
        """Write a small object only where nothing is."""
        return self._around("create", key, lambda: self._store.create(key, body))

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Write a small object only over the version that `etag` names."""
        return self._around("replace", key, lambda: self._store.replace(key, body, etag=etag))

    def head(self, key: str) -> ObjectInfo:
        """Ask what is known of an object."""
        return self._around("head", key, lambda: self._store.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix."""
        return self._around("list", prefix, lambda: self._store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, one by one, so that a process can end between two."""
        for key in keys:
            self._around("delete", key, lambda key=key: self._store.delete([key]))

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream."""
        return self._around("write", key, lambda: self._store.write(key, chunks))

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream."""
        return self._around("read", key, lambda: self._store.read(key, offset=offset))

    def local_path(self, key: str) -> Path | None:
        """Tell where the object lies as a file of this machine."""
        return self._store.local_path(key)


class RequestCounter:
    """Counts the requests of a process, and ends it with SIGKILL after a chosen one.

    Args:
        last: The number of the request that this process does not outlive; None lets it live.
    """

    def __init__(self, last: int | None = None) -> None:
        self.count = 0
        self._last = last
        self._lock = threading.Lock()

    def __call__(self, verb: str, key: str) -> None:
        """Count one request that was done."""
        del verb, key
        with self._lock:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(verb: str, key: str) -> None:
    del verb, key
