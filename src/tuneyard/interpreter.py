"""Commands of Tuneyard's Python processes, which never import from the current folder, and how they import faster.

`python -m` and `python -c` would import a `json.py` in the folder that they are started in. `-P` excludes that folder,
`-s` the packages in the user's home. Variables such as PYTHONPATH still apply: they are set by the user. A process that
runs untrusted code needs more than flags: see `tuneyard.sandbox`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from contextlib import contextmanager

IN_PODS = ("python", "-s", "-P")
"""The interpreter of a container, without packages in its home, which lies on a volume."""


def python(*arguments: str) -> list[str]:
    """Return the command of a Python process on this machine.

    It is isolated like this interpreter: packages in the user's home are used only where this process uses them.

    Args:
        arguments: What follows the interpreter: `-m`, a module and its arguments, or `-c` and a program.
    """
    flags = ["-I"] if sys.flags.isolated else ["-s", "-P"] if sys.flags.no_user_site else ["-P"]
    return [sys.executable, *flags, *arguments]


def pod_python(module: str, *arguments: str) -> list[str]:
    """Return the command of a Python process in a container.

    Args:
        module: The module to run.
        arguments: The module's arguments.
    """
    return [*IN_PODS, "-m", module, *arguments]


@contextmanager
def faster_imports() -> Generator[None]:
    """Import without garbage collection, and exempt from it whatever the process holds afterwards; once in a process.

    Torch and transformers create millions of objects that live as long as the process, and collecting among them takes
    a quarter of the time of their import.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
