"""Waiting for runs: each change until the end, a server's first answer, and how a run ended, as an error if it failed.

Above the `Runner` protocol, which it calls; it knows no target.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tuneyard.errors import TERMINATED, NotFoundError, TuneyardError, UnavailableError, UsageError
from tuneyard.runners.base import Runner
from tuneyard.runners.info import RunInfo, RunKey
from tuneyard.runners.names import find_run

READY_SECONDS = 1800.0


class RunEndedError(TuneyardError):
    """Raised when a run that was waited for failed, was stopped or was interrupted.

    Args:
        info: What is known of the run.
    """

    def __init__(self, info: RunInfo) -> None:
        ended = f"The run {info.key} {_ENDED[info.status]}"
        told = info.error or info.why
        hint = info.hint or f"See what it printed: tuneyard logs {info.key}"
        super().__init__(f"{ended}: {told}" if told else f"{ended}.", hint=hint, run=info.to_dict())
        self.info = info
        self.exit_code = _exit_code_of(info)

    def __reduce__(self) -> tuple[type[RunEndedError], tuple[RunInfo]]:
        return type(self), (self.info,)


def _exit_code_of(info: RunInfo) -> int:
    """What a command that waited for the run ends with: the run's own code; 8 where it vanished without one."""
    if info.exit_code is not None and info.status != "stopped":
        return info.exit_code
    return TERMINATED if info.status == "stopped" else UnavailableError.exit_code


_ENDED = {"failed": "failed", "stopped": "was stopped", "interrupted": "was interrupted"}


def raise_if_not_succeeded(info: RunInfo) -> RunInfo:
    """Return what is known of a run that succeeded or still works.

    Raises:
        RunEndedError: If it ended in any other way.
    """
    if info.ended and info.status != "succeeded":
        raise RunEndedError(info)
    return info


def changes(runner: Runner, key: RunKey, *, every_seconds: float = 0.5) -> Iterator[RunInfo]:
    """Give what is known of a run now and after each change; the last one tells how it ended.

    Args:
        runner: Where it runs.
        key: Which run.
        every_seconds: How often to look.

    Raises:
        NotFoundError: If there is no such run.
    """
    last: RunInfo | None = None
    while last is None or not last.ended:
        info = runner.get(key)
        if info != last:
            yield info
        last = info
        if not info.ended:
            time.sleep(every_seconds)


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
