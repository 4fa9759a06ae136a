"""Several training processes of a node as one: started together, stopped together, one exit code.

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
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuneyard.errors import TERMINATED, TuneyardError, UnavailableError
from tuneyard.interpreter import python
from tuneyard.process import TERMINATION_LOG, forward_message
from tuneyard.train.signals import StopRequest

POLL_SECONDS = 0.2
PARENT = "TUNEYARD_SUPERVISOR_PID"
_PR_SET_PDEATHSIG = 1
_INTERNAL = 1
_PEER_LOST = (_INTERNAL, UnavailableError.exit_code, 128 + signal.SIGABRT)
"""What a process may end with where another node is gone; NCCL's watchdog aborts."""
TROUBLE_SECONDS = 5
GRACE_AFTER_FAILURE_SECONDS = 20
"""How long the others may take to end once one has failed: they wait in an exchange that will never come."""


@dataclass(frozen=True)
class Group:
    """Where this node's processes stand among all.

    Attributes:
        processes: How many are on this node.
        nodes: How many nodes there are, each with as many.
        node: Which one this is.
        address: Where node 0 is reached.
        port: Where the processes find each other; 0 takes a free port of this machine.
        listener: That port, open, where this node is the first of several.
    """

    processes: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    listener: socket.socket | None = None


def _no_trouble() -> TuneyardError | None:
    return None


def supervise(
    module: str,
    arguments: Sequence[str],
    *,
    group: Group,
    stop: StopRequest,
    trouble: Callable[[], TuneyardError | None] = _no_trouble,
) -> int:
    """Run `python -m module` once per process of this node until all have ended.

    Each has a file of its own for its last words; those of the one whose exit code is told become this process's.

    Args:
        module: The module each process runs.
        arguments: Its arguments, the same for all.
        group: How many processes, and where the others are.
        stop: SIGTERM is passed on to every process once it came.
        trouble: Why the processes can't go on without another node's.

    Returns:
        0 where all ended well; else the exit code of the process that failed first, as it would be told by a shell
        (a telling one before those of processes that only lost their peer); 143 only where none failed otherwise.

    Raises:
        TuneyardError: The trouble, where nothing on this node tells more.
    """
    group, store = _hosted(group)
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as folder:
        words = [Path(folder) / f"last-words-{local}" for local in range(group.processes)]
        code = _supervise(_start(module, arguments, group, words), group, stop, trouble)
        forward_message(code, words)
    del store
    return code


def _hosted(group: Group) -> tuple[Group, Any]:
    """Open the store that torch's processes find each other by, at one address instead of all of this machine's.

    Left to itself, torch's first process listens at every address. The processes are told, as torch's own launcher
    does, that the store is there already.
    """
    if group.nodes > 1 and group.listener is None:
        return group, None
    from torch.distributed import TCPStore

    listener = group.listener or socket.create_server((group.address, 0))
    port = int(listener.getsockname()[1])
    store = TCPStore(group.address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    return replace(group, port=port, listener=None), store


def _supervise(
    workers: Sequence[subprocess.Popen[bytes]],
    group: Group,
    stop: StopRequest,
    trouble: Callable[[], TuneyardError | None],
) -> int:
    failure, failed_at, told = 0, 0.0, False
    lost: TuneyardError | None = None
    while any(worker.poll() is None for worker in workers):
        if stop() and not told:
            told = True
            _each_running(workers, subprocess.Popen.terminate)
        if not failure and not lost:
            failure, lost, failed_at = _first_failure(workers), trouble(), time.monotonic()
            if failure or lost:
                _each_running(workers, subprocess.Popen.terminate)
        elif time.monotonic() - failed_at > GRACE_AFTER_FAILURE_SECONDS:
            failure = _first_failure(workers)  # before those that are killed here count
            _each_running(workers, subprocess.Popen.kill)
            for worker in workers:
                worker.wait()
            break
        time.sleep(POLL_SECONDS)
    else:
        failure = _first_failure(workers)
    if group.nodes > 1 and (failure in _PEER_LOST or lost):
        lost = lost or _trouble_soon(trouble)
        if lost and (failure in _PEER_LOST or not failure):
            raise lost
    if failure:
        return failure
    return TERMINATED if any(_code(worker) == TERMINATED for worker in workers) else 0


def _trouble_soon(trouble: Callable[[], TuneyardError | None]) -> TuneyardError | None:
    """Give the word about a lost node the time to arrive: its peers in the training may notice first."""
    until = time.monotonic() + TROUBLE_SECONDS
    while not (known := trouble()) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return known


def _start(module: str, arguments: Sequence[str], group: Group, words: Sequence[Path]) -> list[subprocess.Popen[bytes]]:
    processes = group.processes
    shared = {
        "MASTER_ADDR": group.address,
        "MASTER_PORT": str(group.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is this process's: `_hosted`
        **_loopback(group),
        PARENT: str(os.getpid()),
        "WORLD_SIZE": str(group.nodes * processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // processes)),
    }
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        return [
            subprocess.Popen(
                python("-m", module, *arguments),
                env={
                    **os.environ,
                    **shared,
                    "RANK": str(group.node * processes + local),
                    "LOCAL_RANK": str(local),
                    TERMINATION_LOG: str(file),
                },
            )
            for local, file in enumerate(words)
        ]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _loopback(group: Group) -> dict[str, str]:
    """Keep what the processes of one machine tell each other on that machine; gloo would take a network's interface."""
    if group.nodes > 1 or os.environ.get("GLOO_SOCKET_IFNAME") or "lo" not in dict(socket.if_nameindex()).values():
        return {}
    return {"GLOO_SOCKET_IFNAME": "lo"}


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
    telling = (code for code in failures if code not in (_INTERNAL, UnavailableError.exit_code))
    return next(telling, _INTERNAL if _INTERNAL in failures else failures[0] if failures else 0)


def _each_running(workers: Sequence[subprocess.Popen[bytes]], act: Callable[[subprocess.Popen[bytes]], None]) -> None:
    for worker in workers:
        if worker.poll() is None:
            act(worker)
