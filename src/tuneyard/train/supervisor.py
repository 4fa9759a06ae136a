"""Several training processes as one: started together, stopped together, one exit code.

torchrun is not used: it turns a worker's exit 143 or 7 into 1 and kills workers 30 s after SIGTERM, while a save under
way may need longer. What remains is the environment that `torch.distributed` reads, and waiting.

A worker holds SIGTERM back until it can act on it (`signals`): one that died of it while loading would leave the others
waiting for it. Where the supervisor is killed, the kernel kills the workers (Linux): nothing trains on unseen, in a
folder that the next attempt takes over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tuneyard.errors import TERMINATED
from tuneyard.train.signals import StopRequest

POLL_SECONDS = 0.2
PARENT = "TUNEYARD_SUPERVISOR_PID"
_PR_SET_PDEATHSIG = 1
_INTERNAL = 1
GRACE_AFTER_FAILURE_SECONDS = 20
"""How long the others may take to end once one has failed: they wait in an exchange that will never come."""


def supervise(module: str, arguments: Sequence[str], *, processes: int, stop: StopRequest) -> int:
    """Run `python -m module` once per process until all have ended.

    Args:
        module: The module each process runs.
        arguments: Its arguments, the same for all.
        processes: How many processes.
        stop: SIGTERM is passed on to every process once it came.

    Returns:
        0 where all ended well; else the exit code of the process that failed first, as it would be told by a shell
        (a telling one before the 1 of those that only lost their peer); 143 only where none failed otherwise.
    """
    workers = _start(module, arguments, processes)
    failure, failed_at, told = 0, 0.0, False
    while any(worker.poll() is None for worker in workers):
        if stop() and not told:
            told = True
            _each_running(workers, subprocess.Popen.terminate)
        if not failure:
            failure, failed_at = _first_failure(workers), time.monotonic()
            if failure:
                _each_running(workers, subprocess.Popen.terminate)
        elif time.monotonic() - failed_at > GRACE_AFTER_FAILURE_SECONDS:
            failure = _first_failure(workers)  # before those that are killed here count
            _each_running(workers, subprocess.Popen.kill)
            for worker in workers:
                worker.wait()
            return failure
        time.sleep(POLL_SECONDS)
    failure = _first_failure(workers)
    if failure:
        return failure
    return TERMINATED if any(_code(worker) == TERMINATED for worker in workers) else 0


def _start(module: str, arguments: Sequence[str], processes: int) -> list[subprocess.Popen[bytes]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        PARENT: str(os.getpid()),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes)),
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(processes)
        ]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_supervisor() -> None:
    """Let the kernel kill this worker as soon as its supervisor is gone; call it first of all."""
    if sys.platform != "linux" or PARENT not in os.environ:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):  # it went before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def _code(worker: subprocess.Popen[bytes]) -> int:
    """Its exit code so far, 0 while it runs; a signal's end is 128 + the signal's number."""
    code = worker.poll() or 0
    return 128 - code if code < 0 else code


def _first_failure(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    failures = [code for code in map(_code, workers) if code not in (0, TERMINATED)]
    return next((code for code in failures if code != _INTERNAL), failures[0] if failures else 0)


def _each_running(workers: Sequence[subprocess.Popen[bytes]], act: Callable[[subprocess.Popen[bytes]], None]) -> None:
    for worker in workers:
        if worker.poll() is None:
            act(worker)
