"""What command each verb's run executes on this machine: the entry points of the rooms that do the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tuneyard.interpreter import python
from tuneyard.runners.base import Launch
from tuneyard.runners.info import Verb
from tuneyard.runners.local.folder import RunFolder

BuildCommand = Callable[[RunFolder, Launch], list[str]]
"""Gives the argument list for a run's folder and launch; a server's launch has its port filled in."""


def _deliver(folder: RunFolder, _launch: Launch) -> list[str]:
    return _entry_point("delivery", folder)


def _finetune(folder: RunFolder, _launch: Launch) -> list[str]:
    return _entry_point("train", folder)


def _serve(folder: RunFolder, launch: Launch) -> list[str]:
    where = ["--host", launch.host, "--port", str(launch.port), "--ready-file", str(folder.ready)]
    return [*_entry_point("serving", folder), *where]


def _entry_point(room: str, folder: RunFolder) -> list[str]:
    return python("-m", f"tuneyard.{room}", str(folder.values), "--workdir", str(folder.work))


ENTRY_POINTS: Mapping[Verb, BuildCommand] = {"deliver": _deliver, "finetune": _finetune, "serve": _serve}
