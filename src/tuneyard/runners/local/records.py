"""Small JSON files that are written atomically, and locks that end with their holder.

The bottom of the local runner: files, not runs. Locks are `flock`: the kernel drops them when the last process that
has the file open ends, however it ends, so no process id has to be trusted after a reboot.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BUSY_TRIES = 20
_BUSY_WAIT_SECONDS = 0.005


def write_bytes(path: Path, body: bytes, *, mode: int = 0o644) -> None:
    """Replace a file atomically: a reader sees the old or the new one, never a part; on disk before it is visible."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, record: dict[str, Any], *, mode: int = 0o644) -> None:
    """Replace a record atomically, as `write_bytes` does."""
    write_bytes(path, (json.dumps(record, indent=1) + "\n").encode(), mode=mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a record; None if there is none, or if the file is not a JSON object (another program's file)."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def try_lock(path: Path) -> int | None:
    """Take a lock for as long as the returned descriptor, or a copy of it in a child process, stays open.

    Returns:
        The descriptor, or None if another holds the lock. A reader that probes the lock for an instant (`is_locked`) is
        waited for.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_BUSY_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_BUSY_WAIT_SECONDS)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock exclusively."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Hold a lock in a `with` block, waiting for it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
