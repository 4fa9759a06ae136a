"""The locks that this machine has."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tuneyard.interpreter import python
from tuneyard.sandbox import landlock, seccomp
from tuneyard.sandbox.locks import Locks
from tuneyard.sandbox.plan import Plan, command

_SECONDS = 60


def find_locks(*, newest_landlock: int | None = None) -> Locks:
    """Find the locks to use on this machine: Landlock, and a second one where it is missing or old.

    Args:
        newest_landlock: The highest version of Landlock to use, as on an older kernel; the kernel's own where None.
    """
    version = landlock.version()
    return _find(version if newest_landlock is None else min(version, newest_landlock))


@cache
def _find(version: int) -> Locks:
    alone = Locks(version)
    if version >= landlock.SIGNALS:
        return alone
    tried = [Locks(version, namespaces=True)]
    if 0 < version < landlock.TRUNCATION and seccomp.is_known():
        tried.append(Locks(version, seccomp=True))
    return next((locks for locks in tried if _usable(locks)), alone)


def _usable(locks: Locks) -> bool:
    """Try locks on a program that does nothing: an administrator may have disabled them."""
    with tempfile.TemporaryDirectory(prefix="tuneyard-sandbox-") as folder:
        program = python("-S", "-c", "pass")
        tried = command(Plan(writable=(folder,)), locks, program, file=Path(folder) / "plan.json")
        done = subprocess.run(tried, capture_output=True, timeout=_SECONDS, check=False)
    return done.returncode == 0
