"""Waiting for runs: each change until the end, a server's first answer, and how a run ended, as an error if it failed.

Above the `Runner` protocol, which it calls; it does not depend on the target.
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
    """Raised if a run that was waited for failed, was stopped or was interrupted.

    Args:
        info: The run's last state.
    """

    def __init__(self, info: RunInfo) -> None:
        hint = info.hint or f"See its log: tuneyard logs {info.key}"
        super().__init__(_sentence(info), hint=hint, run=info.to_dict())
        self.info = info
        self.exit_code = _exit_code_of(info)

    def __reduce__(self) -> tuple[type[RunEndedError], tuple[RunInfo]]:
        return type(self), (self.info,)


def _sentence(info: RunInfo) -> str:
    if info.status == "stopped":
        return f"The run '{info.key}' was {info.why or 'stopped'}."
    reason = info.error or info.why
    return f"The run '{info.key}' {_ENDED[info.status]}" + (f": {reason}" if reason else ".")


def _exit_code_of(info: RunInfo) -> int:
    """Return the exit code of a command that waited for the run: the run's own; 8 if its process vanished."""
    if info.exit_code is not None and info.status != "stopped":
        return info.exit_code
    return TERMINATED if info.status == "stopped" else UnavailableError.exit_code


_ENDED = {"failed": "failed", "interrupted": "was interrupted"}


def raise_if_not_succeeded(info: RunInfo) -> RunInfo:
    """Return the state of a run that succeeded or is still running.

    Raises:
        RunEndedError: If it ended in any other way.
    """
    if info.ended and info.status != "succeeded":
        raise RunEndedError(info)
    return info


def changes(runner: Runner, key: RunKey, *, every_seconds: float = 0.5) -> Iterator[RunInfo]:
    """Yield the state of a run now and after each change, until it has ended.

    Args:
        runner: Where it runs.
        key: Which run.
        every_seconds: The time between two polls.

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
    """Return whether a server answers; while it loads, its status has a reason."""
    return info.status == "running" and not info.why


def wait_until_ready(
    runner: Runner,
    key: RunKey,
    *,
    timeout_seconds: float = READY_SECONDS,
    notify: Callable[[str], object] = lambda _: None,
) -> RunInfo:
    """Wait until a server answers.

    Args:
        runner: Where it runs.
        key: Which server.
        timeout_seconds: How long to wait.
        notify: Called with the reason for waiting, whenever it changes.

    Raises:
        RunEndedError: If it ended instead.
        UnavailableError: If it does not answer in time.
    """
    deadline, reason = time.monotonic() + timeout_seconds, ""
    while True:
        info = runner.get(key)
        if is_ready(info):
            return info
        if info.ended:
            raise RunEndedError(info)
        if info.why != reason:
            reason = info.why
            notify(reason)
        if time.monotonic() >= deadline:
            raise UnavailableError(
                f"The server '{key.name}' did not answer within {timeout_seconds:g} s.",
                hint=f"See its log: tuneyard logs {key}{runner.options}",
            )
        time.sleep(runner.poll_seconds)


def find_server(runner: Runner, name: str | None) -> RunInfo:
    """Find a running server: by its name, or the only one.

    Raises:
        NotFoundError: If there is no such server.
        UnavailableError: If it is not running.
        UsageError: If several are running and none is named.
    """
    if name is not None:
        info = find_run(runner.list("serve"), name, verbs=("serve",), command="tuneyard chat", options=runner.options)
        if info.ended:
            raise UnavailableError(
                f"The server {info.name!r} is not running; it is {info.status}.",
                hint=f"Start it: tuneyard serve {info.name}{runner.options}",
            )
        return info
    running = [info for info in runner.list("serve") if not info.ended]
    if not running:
        raise NotFoundError(
            "No server is running.", hint=f"Start one from a finished run: tuneyard serve NAME{runner.options}"
        )
    if len(running) > 1:
        names = [info.name for info in running]
        raise UsageError(
            f"{len(running)} servers are running: {', '.join(names)}.",
            hint=f"Name one of them: tuneyard chat {names[0]}{runner.options}",
            servers=names,
        )
    return running[0]
