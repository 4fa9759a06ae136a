"""What a program in the sandbox may write and read, and the command that runs it there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tuneyard.interpreter import python
from tuneyard.sandbox import landlock, namespaces, seccomp
from tuneyard.sandbox.locks import Locks


@dataclass(frozen=True, slots=True)
class Plan:
    """What a program may do, whichever locks enforce it.

    Attributes:
        writable: Folders that it may write to, and read.
        hidden: Files and folders that it may not read.
        shown: Files and folders within hidden ones that it may read.
    """

    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        folders = [Path(folder) for folder in self.writable]
        inside = [one for one in map(Path, self.hidden) if any(folder in (one, *one.parents) for folder in folders)]
        if inside:  # Landlock's rules add up: nothing within a writable folder can be hidden
            raise ValueError(f"'{inside[0]}' can't be hidden within a writable folder.")


def command(plan: Plan, locks: Locks, program: Sequence[str], *, file: Path) -> list[str]:
    """Return the command that runs a program in the sandbox, and write the file with its plan.

    Args:
        plan: What the program may do.
        locks: The locks that enforce it.
        program: The program's command.
        file: The file for the plan, which may be too long for an argument.
    """
    file.write_text(json.dumps({"plan": asdict(plan), "locks": asdict(locks)}), encoding="utf-8")
    return python("-m", "tuneyard.sandbox", str(file), *program)


def lock(plan: Plan, locks: Locks) -> None:
    """Confine this process and its children permanently; with namespaces it continues as another process.

    Args:
        plan: What it may do.
        locks: The locks that enforce it.

    Raises:
        OSError: One of the locks can't be used.
    """
    places = {name: [Path(path) for path in paths] for name, paths in asdict(plan).items()}
    if locks.namespaces:
        namespaces.enter(**places)
    if locks.seccomp:
        seccomp.forbid_truncation()
    if locks.landlock:
        landlock.restrict(locks.landlock, **places)
