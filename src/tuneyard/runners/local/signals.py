"""Signals to the processes of a run: a request to stop, or a kill of them and everything they started.

A process id is used only if the process has the run's folder in its arguments: ids are reused, and after a crash the
recorded one may belong to another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuneyard.runners.local.folder import RunFolder
from tuneyard.runners.local.records import read_json

if TYPE_CHECKING:
    import psutil


def request_stop(folder: RunFolder) -> bool:
    """Send SIGTERM to the supervisor, which forwards it; if it is gone, to the command itself.

    Returns:
        Whether a process received it.
    """
    import psutil

    for process in _processes(folder):
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
        return True
    return False


def kill(folder: RunFolder) -> None:
    """Kill the command and all its descendants; the supervisor survives, to record how it ended."""
    import psutil

    ids = read_json(folder.process) or {}
    command = _process(folder, ids, "child")
    if command is None:
        return
    try:
        processes = [command, *command.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _processes(folder: RunFolder) -> list[psutil.Process]:
    ids = read_json(folder.process) or {}
    found = (_process(folder, ids, role) for role in ("supervisor", "child"))
    return [process for process in found if process is not None]


def _process(folder: RunFolder, ids: dict[str, Any], role: str) -> psutil.Process | None:
    if role not in ids:
        return None
    import psutil

    try:
        process = psutil.Process(ids[role]["pid"])
        mine = any(str(folder.path) in argument for argument in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    return process if mine and process.status() != psutil.STATUS_ZOMBIE else None
