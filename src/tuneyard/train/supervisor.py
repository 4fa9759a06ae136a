"""Supervises the training processes of one node: starts and stops them together, and returns one exit code.

torchrun is not used: it turns a worker's exit code 143 or 7 into 1 and kills workers 30 s after SIGTERM, while a save
may need longer. What remains is to set the environment that `torch.distributed` reads, and to wait.

A worker blocks SIGTERM until it can handle it (`signals`): if it died from SIGTERM while loading, the others would wait
for it. When the supervisor is killed, the kernel kills its workers (Linux), so that none keeps training in a folder
that the next attempt takes over.
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
"""Exit codes that may mean that another node was lost; NCCL's watchdog aborts."""
PEER_FAILURE_SECONDS = 5
GRACE_AFTER_FAILURE_SECONDS = 20
"""How long the other workers may take to end after one failed: they wait in a collective that never completes."""


@dataclass(frozen=True)
class Group:
    """The processes of this node, and their position among those of all nodes.

    Attributes:
        processes: The number of processes per node.
        nodes: The number of nodes.
        node: The index of this node.
        address: The address of node 0.
        port: The port of torch's store at node 0; 0 picks a free port of this machine.
        listener: The listening socket of that port, on node 0 of several.
    """

    processes: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = 0
    listener: socket.socket | None = None


def _no_peer_failure() -> TuneyardError | None:
    return None


def supervise(
    module: str,
    arguments: Sequence[str],
    *,
    group: Group,
    stop: StopRequest,
    peer_failure: Callable[[], TuneyardError | None] = _no_peer_failure,
) -> int:
    """Run `python -m module` once per process of this node until all have ended.

    Each process has its own termination message file; the message of the process whose exit code is returned becomes
    this process's message.

    Args:
        module: The module each process runs.
        arguments: Its arguments, the same for all processes.
        group: The processes to start.
        stop: Once it returns True, SIGTERM is forwarded to every process.
        peer_failure: Returns the error that prevents this node from continuing, such as a lost node; None otherwise.

    Returns:
        0 if all processes succeeded; otherwise the exit code of the process that failed first, in the shell's form
        (specific codes take precedence over those of processes that only lost their peer); 143 only if none failed
        otherwise.

    Raises:
        TuneyardError: The error from `peer_failure`, if no process of this node failed with a more specific exit code.
    """
    group, store = _hosted(group)
    with tempfile.TemporaryDirectory(prefix="tuneyard-") as folder:
        messages = [Path(folder) / f"termination-message-{local}" for local in range(group.processes)]
        code = _supervise(_start(module, arguments, group, messages), group, stop, peer_failure)
        forward_message(code, messages)
    del store
    return code


def _hosted(group: Group) -> tuple[Group, Any]:
    """Host the store that torch's processes meet through, on one address of this machine instead of all.

    By default, torch's first process listens on every address. `TORCHELASTIC_USE_AGENT_STORE`, which torchrun sets too,
    makes the processes connect to a store that already exists.
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
    peer_failure: Callable[[], TuneyardError | None],
) -> int:
    failure, failed_at, stopping = 0, 0.0, False
    lost: TuneyardError | None = None
    while any(worker.poll() is None for worker in workers):
        if stop() and not stopping:
            stopping = True
            _each_running(workers, subprocess.Popen.terminate)
        if not failure and not lost:
            failure, lost, failed_at = _first_failure(workers), peer_failure(), time.monotonic()
            if failure or lost:
                _each_running(workers, subprocess.Popen.terminate)
        elif time.monotonic() - failed_at > GRACE_AFTER_FAILURE_SECONDS:
            failure = _first_failure(workers)  # before the exit codes of those that are killed here count
            _each_running(workers, subprocess.Popen.kill)
            for worker in workers:
                worker.wait()
            break
        time.sleep(POLL_SECONDS)
    else:
        failure = _first_failure(workers)
    if group.nodes > 1 and (failure in _PEER_LOST or lost):
        lost = lost or _await_peer_failure(peer_failure)
        if lost and (failure in _PEER_LOST or not failure):
            raise lost
    if failure:
        return failure
    return TERMINATED if any(_code(worker) == TERMINATED for worker in workers) else 0


def _await_peer_failure(peer_failure: Callable[[], TuneyardError | None]) -> TuneyardError | None:
    """Wait for the news about a lost node: the workers, its peers in the training, may notice the loss first."""
    until = time.monotonic() + PEER_FAILURE_SECONDS
    while not (known := peer_failure()) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return known


def _start(
    module: str, arguments: Sequence[str], group: Group, messages: Sequence[Path]
) -> list[subprocess.Popen[bytes]]:
    processes = group.processes
    shared = {
        "MASTER_ADDR": group.address,
        "MASTER_PORT": str(group.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # this process hosts the store: `_hosted`
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
            for local, file in enumerate(messages)
        ]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _loopback(group: Group) -> dict[str, str]:
    """Keep the traffic between processes of one machine on the loopback interface; gloo defaults to a network's."""
    if group.nodes > 1 or os.environ.get("GLOO_SOCKET_IFNAME") or "lo" not in dict(socket.if_nameindex()).values():
        return {}
    return {"GLOO_SOCKET_IFNAME": "lo"}


def die_with_supervisor() -> None:
    """Let the kernel kill this worker when its supervisor dies; call it before anything else."""
    if sys.platform != "linux" or PARENT not in os.environ:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ[PARENT]):  # it died before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def _code(worker: subprocess.Popen[bytes]) -> int:
    """Return a worker's exit code, 0 while it runs; 128 + the signal's number if a signal ended it."""
    code = worker.poll() or 0
    return 128 - code if code < 0 else code


def _first_failure(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    failures = [code for code in map(_code, workers) if code not in (0, TERMINATED)]
    specific = (code for code in failures if code not in (_INTERNAL, UnavailableError.exit_code))
    return next(specific, _INTERNAL if _INTERNAL in failures else failures[0] if failures else 0)


def _each_running(
    workers: Sequence[subprocess.Popen[bytes]], action: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    for worker in workers:
        if worker.poll() is None:
            action(worker)
