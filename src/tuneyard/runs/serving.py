"""Waiting for a launched server until it answers, and finding the one that is meant to be talked to."""

from __future__ import annotations

import time
from collections.abc import Callable

from tuneyard.errors import NotFoundError, UnavailableError, UsageError
from tuneyard.runs.base import Runner
from tuneyard.runs.info import RunInfo, RunKey
from tuneyard.runs.names import find_run
from tuneyard.runs.outcome import RunEndedError

READY_SECONDS = 1800.0


def is_ready(info: RunInfo) -> bool:
    """Tell whether a server answers; while it loads, its status has a reason."""
    return info.status == "running" and not info.why


def wait_until_ready(
    runner: Runner,
    key: RunKey,
    *,
    timeout_seconds: float = READY_SECONDS,
    tell: Callable[[str], object] = lambda _: None,
) -> RunInfo:
    """Wait until a server answers.

    Args:
        runner: Where it runs.
        key: Which server.
        timeout_seconds: How long to wait.
        tell: Called with what it waits for, whenever that changes.

    Raises:
        RunEndedError: If it ended instead.
        UnavailableError: If it does not answer in time.
    """
    until, told = time.monotonic() + timeout_seconds, ""
    while True:
        info = runner.get(key)
        if is_ready(info):
            return info
        if info.ended:
            raise RunEndedError(info)
        if info.why != told:
            told = info.why
            tell(told)
        if time.monotonic() >= until:
            raise UnavailableError(
                f"The server {key.name} does not answer after {timeout_seconds:g} s.",
                hint=f"See what it is doing: tuneyard logs {key}{runner.words}",
            )
        time.sleep(runner.look_seconds)


def find_server(runner: Runner, name: str | None) -> RunInfo:
    """Find the running server that is meant: by its name, or the only one there is.

    Raises:
        NotFoundError: If there is no such server.
        UnavailableError: If it is there and does not run.
        UsageError: If several run and none is named.
    """
    if name is not None:
        info = find_run(runner.list("serve"), name, verbs=("serve",), words="tuneyard chat", target=runner.words)
        if info.ended:
            raise UnavailableError(
                f"The server {info.name!r} does not run ({info.status}).",
                hint=f"Start it: tuneyard serve {info.name}{runner.words}",
            )
        return info
    running = [info for info in runner.list("serve") if not info.ended]
    if not running:
        raise NotFoundError(
            "No server is running.", hint=f"Start one from a finished run: tuneyard serve NAME{runner.words}"
        )
    if len(running) > 1:
        names = [info.name for info in running]
        raise UsageError(
            f"{len(running)} servers are running: {', '.join(names)}.",
            hint=f"Say which one: tuneyard chat {names[0]}{runner.words}",
            servers=names,
        )
    return running[0]
