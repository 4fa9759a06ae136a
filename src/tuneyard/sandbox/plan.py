"""What a program in the sandbox may write and read, and the command that puts it there."""

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
    """What a program may do, whichever lock holds it to that.

    Attributes:
        writable: Folders that it may write into, and read.
        hidden: Files and folders that it may not read.
        shown: Files and folders that it may read although they lie in what is hidden.
    """

    writable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        folders = [Path(folder) for folder in self.writable]
        inside = [one for one in map(Path, self.hidden) if any(folder in (one, *one.parents) for folder in folders)]
        if inside:  # Landlock's rules add up: what lies in a folder of the program's own can't be hidden from it
            raise ValueError(f"{inside[0]} can't be hidden in a folder that may be written into")


def command(plan: Plan, locks: Locks, program: Sequence[str], *, file: Path) -> list[str]:
    """Write the command that runs a program in the sandbox, and the file that it reads its plan from.

    Args:
        plan: What it may do.
        locks: What holds it to that.
        program: The program's own command.
        file: Where the plan goes: it may be longer than an argument can be.
    """
    file.write_text(json.dumps({"plan": asdict(plan), "locks": asdict(locks)}), encoding="utf-8")
    return python("-m", "tuneyard.sandbox", str(file), *program)


def lock(plan: Plan, locks: Locks) -> None:
    """Lock this process and all that it starts, for ever; with namespaces it goes on as another process.

    Args:
        plan: What it may do.
        locks: What holds it to that.

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
