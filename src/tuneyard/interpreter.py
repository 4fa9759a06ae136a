"""How a Python process of ours is started: never with the current folder among the places that imports come from.

`python -m` and `python -c` would import a `json.py` of the folder they are started in. `-P` leaves that folder out,
`-s` the packages in the user's home. Variables such as PYTHONPATH stay: whoever starts the process sets them. A process
that is to run what others wrote needs more than flags: see `tuneyard.sandbox`.
"""

from __future__ import annotations

import sys

IN_PODS = ("python", "-s", "-P")
"""The interpreter of a container: nothing of its home either, which lies on a volume."""


def python(*arguments: str) -> list[str]:
    """Write the command of a Python process on this machine.

    What this very interpreter leaves out is left out there too; packages of the user's home are only used where this
    process uses them.

    Args:
        arguments: What follows the interpreter: `-m`, a module and its arguments, or `-c` and a program.
    """
    flags = ["-I"] if sys.flags.isolated else ["-s", "-P"] if sys.flags.no_user_site else ["-P"]
    return [sys.executable, *flags, *arguments]


def pod_python(module: str, *arguments: str) -> list[str]:
    """Write the command of a Python process in a container.

    Args:
        module: The module that it runs.
        arguments: The module's arguments.
    """
    return [*IN_PODS, "-m", module, *arguments]
