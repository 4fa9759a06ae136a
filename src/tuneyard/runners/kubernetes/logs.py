"""The log of a cluster's run: of every container, pod and attempt, and of all its nodes at once.

A pod's log ends with its container. Following a run includes the next attempt, so pods are listed until the run has
ended. Each pod is read by its own thread; the lines of several nodes are prefixed by `[index]`.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tuneyard.cluster import Document, Reader, container_names, created, is_finished, newest_attempt, node_index
from tuneyard.errors import NotFoundError, UnavailableError

_POLL_SECONDS = 1.0
# A pod with a terminal prints colours, and bars that redraw themselves.
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERASE = "\x1b[2K"
_ATTEMPT = "--- pod {name}, {when} UTC"


@dataclass(frozen=True, slots=True)
class PodLogs:
    """Reads the logs of a run's pods.

    Args:
        reader: The cluster.
        pods: Returns the run's pods as they are now.
        has_ended: Returns whether the run has ended.
        nodes: How many pods run at the same time.
    """

    reader: Reader
    pods: Callable[[], list[Document]]
    has_ended: Callable[[], bool]
    nodes: int = 1

    def lines(self, *, follow: bool, newest: bool) -> Iterator[str]:
        """Yield the lines, oldest pod first; see `Runner.logs`."""
        pods = sorted(self.pods(), key=created)
        if newest:
            pods = newest_attempt(pods)
        if follow:
            yield from self._followed(pods)
            return
        for place, pod in enumerate(pods):
            if place and self.nodes == 1:
                yield _heading(pod)
            yield from self._read(pod)

    def _read(self, pod: Document) -> Iterator[str]:
        for container in container_names(pod):
            try:
                yield from self._prefixed(pod, self.reader.log(pod["metadata"]["name"], container))
            except (NotFoundError, UnavailableError):
                continue  # it has not started, or its pod is gone

    def _followed(self, pods: list[Document]) -> Iterator[str]:
        found: queue.SimpleQueue[str] = queue.SimpleQueue()
        threads: dict[str, threading.Thread] = {}
        ended = False
        while True:
            for pod in pods:
                name = pod["metadata"]["name"]
                if name not in threads:
                    if threads and self.nodes == 1:
                        found.put(_heading(pod))
                    threads[name] = threading.Thread(target=self._follow, args=(pod, found), daemon=True)
                    threads[name].start()
            until = time.monotonic() + _POLL_SECONDS
            while (left := until - time.monotonic()) > 0:
                try:
                    yield found.get(timeout=left)
                except queue.Empty:
                    break
            if ended and not any(thread.is_alive() for thread in threads.values()):
                while not found.empty():
                    yield found.get()
                return
            ended = self.has_ended()
            pods = sorted(self.pods(), key=created)

    def _follow(self, pod: Document, found: queue.SimpleQueue[str]) -> None:
        name = pod["metadata"]["name"]
        for container in container_names(pod):
            restarts = -1
            while True:
                now = self.reader.find("Pod", name)
                if now is None:
                    return
                status = _status(now, container)
                state = (status or {}).get("state") or {}
                if state.keys() & {"running", "terminated"} and (status or {}).get("restartCount", 0) > restarts:
                    restarts = (status or {}).get("restartCount", 0)
                    try:
                        for line in self._prefixed(pod, self.reader.log(name, container, follow=True)):
                            found.put(line)
                    except (NotFoundError, UnavailableError):
                        pass  # the node or the connection is gone; the next poll shows whether the pod is too
                    continue
                if is_finished(now) or ("terminated" in state and now["spec"].get("restartPolicy") == "Never"):
                    break
                if "terminated" in state and container != container_names(now)[-1]:
                    break
                if self.has_ended():
                    break
                time.sleep(_POLL_SECONDS)

    def _prefixed(self, pod: Document, lines: Iterator[str]) -> Iterator[str]:
        index = node_index(pod)
        start = f"[{index}] " if self.nodes > 1 and index is not None else ""
        for line in lines:
            # A bar that redraws itself with carriage returns counts as its newest state.
            newest = line.rstrip("\r").rpartition("\r")[2]
            plain = _TERMINAL.sub("", newest)
            if plain == newest or not (_ERASE in newest or not plain.strip()):
                yield start + plain


def _heading(pod: Document) -> str:
    when = str(pod["metadata"].get("creationTimestamp", "")).replace("T", " ").rstrip("Z")
    return _ATTEMPT.format(name=pod["metadata"]["name"], when=when)


def _status(pod: Document, container: str) -> Document | None:
    status = pod.get("status") or {}
    every = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    return next((one for one in every if one["name"] == container), None)
