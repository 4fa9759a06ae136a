"""The command that each verb's run executes on this machine: the entry point of the verb's package."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuneyard.interpreter import python
from tuneyard.runners.base import Launch
from tuneyard.runners.info import Verb
from tuneyard.runners.local.folder import RunFolder

BuildCommand = Callable[[RunFolder, Launch], list[str]]
"""Returns the argument list for a run's folder and launch; a server's launch has its port filled in."""


def _deliver(folder: RunFolder, _launch: Launch) -> list[str]:
    return _entry_point("delivery", folder)


def _finetune(folder: RunFolder, _launch: Launch) -> list[str]:
    return _entry_point("train", folder)


def _serve(folder: RunFolder, launch: Launch) -> list[str]:
    where = ["--host", launch.host, "--port", str(launch.port), "--ready-file", str(folder.ready)]
    return [*_entry_point("serving", folder), *where]


def _entry_point(package: str, folder: RunFolder) -> list[str]:
    return python("-m", f"tuneyard.{package}", str(folder.values), "--workdir", str(folder.work))


ENTRY_POINTS: Mapping[Verb, BuildCommand] = {"deliver": _deliver, "finetune": _finetune, "serve": _serve}
