"""The locks that confine a program, and what they restrict together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from tuneyard.sandbox import landlock

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
