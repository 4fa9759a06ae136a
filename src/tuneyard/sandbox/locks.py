"""The locks that a machine has, and what they restrict together."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from tuneyard.interpreter import python
from tuneyard.sandbox import landlock, seccomp

Hold = Literal[
    "writes", "truncation", "reads", "processes", "signals", "abstract sockets", "shared memory", "modes and times"
]  # fmt: skip
"""What a lock may restrict, outside of the program's own folders and processes:

writes: to write, create, rename or remove. truncation: to truncate a file. reads: to read hidden paths. processes: to
inspect or trace a process. signals: to send one. abstract sockets: to connect to one. shared memory: to open or change
any, in `/dev/shm` or by System V's calls. modes and times: to change a file's mode, owner or times.
"""

HOLDS: tuple[Hold, ...] = get_args(Hold)

SUFFICIENT: frozenset[Hold] = frozenset({"writes", "truncation", "reads", "processes", "signals"})
"""What a required sandbox has to restrict. The rest needs Linux 6.12 or namespaces."""

_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Locks:
    """The locks that confine a program.

    Attributes:
        landlock: The version of Landlock's interface to use; 0 for none.
        namespaces: Whether to use namespaces.
        seccomp: Whether to filter system calls that truncate.
    """

    landlock: int = 0
    namespaces: bool = False
    seccomp: bool = False

    @property
    def held(self) -> tuple[Hold, ...]:
        """What they restrict together."""
        held: set[Hold] = set()
        if self.landlock:
            held |= {"writes", "reads", "processes"}
        if self.landlock >= landlock.TRUNCATION or (self.landlock and self.seccomp):
            held.add("truncation")
        if self.landlock >= landlock.SIGNALS:
            held |= {"signals", "abstract sockets"}
        if self.namespaces:
            held |= {"writes", "truncation", "reads", "processes", "signals", "shared memory", "modes and times"}
        return tuple(one for one in HOLDS if one in held)

    @property
    def sufficient(self) -> bool:
        """Whether they are sufficient for an untrusted program."""
        return SUFFICIENT.issubset(self.held)

    def __str__(self) -> str:
        """List the locks."""
        used = [f"Landlock {self.landlock}"] if self.landlock else []
        used += ["namespaces"] if self.namespaces else []
        used += ["seccomp"] if self.seccomp else []
        return " and ".join(used) or "none"


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
    return next((locks for locks in tried if _work(locks)), alone)


def _work(locks: Locks) -> bool:
    """Try locks on a program that does nothing: an administrator may have disabled them."""
    from tuneyard.sandbox.plan import Plan, command

    with tempfile.TemporaryDirectory(prefix="tuneyard-sandbox-") as folder:
        program = python("-S", "-c", "pass")
        tried = command(Plan(writable=(folder,)), locks, program, file=Path(folder) / "plan.json")
        done = subprocess.run(tried, capture_output=True, timeout=_SECONDS, check=False)
    return done.returncode == 0
