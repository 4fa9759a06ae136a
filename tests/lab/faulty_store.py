"""A wrapper around a real store that runs a callback before or after each call: to count, to fail, to kill.

Tests pass it in as any other store. `Killed` is the error that stands for the end of the process.
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
"""Called with the verb and the key; an error that it raises reaches the caller."""


class Killed(BaseException):
    """Stands for SIGKILL inside this process: no `except Exception` catches it, so nothing runs after it."""


class FaultyStore:
    """A store that forwards every call to another one, with a callback before and after it.

    Args:
        store: The real store.
        before: Called before the call is forwarded.
        after: Called once the call has succeeded.
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
        """Write a small object, replacing any existing one."""
        return self._around("put", key, lambda: self._store.put(key, body))

    def create(self, key: str, body: bytes) -> str:
        """Write a small object if the key does not exist."""
        return self._around("create", key, lambda: self._store.create(key, body))

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace a small object if its ETag is still `etag`."""
        return self._around("replace", key, lambda: self._store.replace(key, body, etag=etag))

    def head(self, key: str) -> ObjectInfo:
        """Return an object's size and ETag."""
        return self._around("head", key, lambda: self._store.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix."""
        return self._around("list", prefix, lambda: self._store.list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects one at a time, so that a callback can run between two of them."""
        for key in keys:
            self._around("delete", key, lambda key=key: self._store.delete([key]))

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream."""
        return self._around("write", key, lambda: self._store.write(key, chunks))

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream."""
        return self._around("read", key, lambda: self._store.read(key, offset=offset))

    def local_path(self, key: str) -> Path | None:
        """Return the path of the object where the store is a local folder."""
        return self._store.local_path(key)


class RequestCounter:
    """A callback that counts requests and kills this process with SIGKILL after a given one.

    Args:
        kill_after: The number of the request, from 1; None for never.
    """

    def __init__(self, kill_after: int | None = None) -> None:
        self.count = 0
        self._kill_after = kill_after
        self._lock = threading.Lock()

    def __call__(self, verb: str, key: str) -> None:
        """Count one completed request."""
        del verb, key
        with self._lock:
            self.count += 1
            if self.count == self._kill_after:
                os.kill(os.getpid(), signal.SIGKILL)


def _nothing(verb: str, key: str) -> None:
    del verb, key
