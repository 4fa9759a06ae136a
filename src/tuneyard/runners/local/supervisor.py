"""The supervisor of one local run: `python -m tuneyard.runners.local.supervisor FOLDER LOCK_DESCRIPTOR`.

It detaches from the terminal, starts the run's command, forwards SIGTERM to it, and records how it ended. It does not
depend on what the command does. The lock is held by the launcher, inherited and shared with the command, so the run
counts as running exactly as long as one of the two is alive. If the supervisor is killed, the kernel sends the command
SIGTERM (Linux); it saves and ends, so that no unsupervised training goes on.

It is resident for as long as the run, so it imports little.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from tuneyard.runners.local.records import read_json, write_json

_PR_SET_PDEATHSIG = 1
_STARTED = b"started"


def main(folder: Path, lock: int) -> int:
    """Fork the supervisor off and wait until it has started the command.

    Args:
        folder: The run's folder, with `run.json` in place.
        lock: The descriptor of the run's held lock.

    Returns:
        0 once the command has been started (or its failure to start has been recorded).
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            return 0 if pipe.read() == _STARTED else 1
    os.close(reading)
    os.setsid()
    with os.fdopen(writing, "wb") as pipe:
        child = _Child(folder, lock)
        child.start()
        pipe.write(_STARTED)
    child.finish()
    return 0


class _Child:
    """The run's command, from its start to the record of its end."""

    def __init__(self, folder: Path, lock: int) -> None:
        self._folder = folder
        self._lock = lock
        self._stop_requested = False
        self._process: subprocess.Popen[bytes] | None = None
        self._error = ""

    def start(self) -> None:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        record = read_json(self._folder / "run.json") or {}
        try:
            self._process = subprocess.Popen(
                record["argv"],
                env=self._environment(record),
                stdin=subprocess.DEVNULL,
                pass_fds=(self._lock,),
                # Safe here: this process has one thread.
                preexec_fn=_die_with_parent(),
            )
        except OSError as error:
            self._error = f"The command {record['argv'][0]!r} can't be started: {error.strerror}."
        write_json(self._folder / "process.json", self._process_ids())
        if self._stop_requested and self._process:
            self._process.terminate()

    def finish(self) -> None:
        code = self._process.wait() if self._process else 1
        end = {
            "code": 128 - code if code < 0 else code,
            "finished_at": datetime.now(UTC).isoformat(),
            "stop_asked": self._stop_requested,
        }
        if self._error:
            end["error"] = self._error
        write_json(self._folder / "exit.json", end)

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop_requested = True
        if self._process:
            self._process.terminate()

    def _environment(self, record: dict[str, Any]) -> dict[str, str]:
        environment = {
            **os.environ,
            "TUNEYARD_STORE": record["store"],
            "TUNEYARD_PROGRESS": str(self._folder / "bar.json"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",  # keys and the log are UTF-8, whatever the terminal's encoding
            "PYTHONIOENCODING": "utf-8",
        }
        api_key = self._folder / "api-key"
        if record["verb"] == "serve" and api_key.exists():
            environment["TUNEYARD_API_KEY"] = api_key.read_text(encoding="utf-8").strip()
        return environment

    def _process_ids(self) -> dict[str, Any]:
        ids: dict[str, Any] = {"supervisor": {"pid": os.getpid()}, "started_at": datetime.now(UTC).isoformat()}
        if self._process:
            ids["child"] = {"pid": self._process.pid}
        return ids


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here and not after the fork, where only plain system calls are safe.
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
