"""Several nodes as one training: they meet before torch is loaded, and each is notified when another ends or is lost.

The supervising process of each node holds one TCP connection to node 0's for as long as the run lasts. What a lost node
means must not depend on how a collective of torch fails, which may take half an hour: a connection that breaks, or is
silent for `SILENCE_SECONDS`, ends all other nodes with 8, and all nodes are started again by what launched them.

A node and node 0 authenticate each other by the run's key (`links`). Then the node sends the facts about what it is
about to train, and node 0 sends `welcome` to all nodes once every node has joined. Each sends `ready` when its data is
prepared; node 0 sends `go` with the port, one of its own, where torch's processes meet. `ended` carries an exit code.
Node 0 forwards what the others send. A `beat` every few seconds distinguishes a silent node from a busy one.

torch's own store and rendezvous do the same for those processes, but can't do it here: `docs/design/nodes.md`.
"""

from __future__ import annotations

import errno
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from tuneyard.errors import TERMINATED, TuneyardError, UnavailableError
from tuneyard.job import Inputs
from tuneyard.progress import Notify
from tuneyard.train.links import Link, listen
from tuneyard.train.place import Place, number_of
from tuneyard.train.signals import never
from tuneyard.values import FinetuneValues, values_sha256

MEETING_SECONDS = 600.0
"""How long a node waits for the others, unless `TUNEYARD_MEETING_SECONDS` is set."""
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0
"""A node that sends nothing for this long is lost, even if its connection is still open."""
_AGREE_SECONDS = 60.0
_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 3.0
_HANDSHAKE_SECONDS = 10.0
_UNAUTHENTICATED = 64
"""The number of connections that may be unauthenticated at once."""
_SUCCESS = (0, TERMINATED)
_RESTART = "Start all nodes again (a cluster does so itself); training resumes from the newest checkpoint."


def facts_of(values: FinetuneValues, inputs: Inputs) -> dict[str, str]:
    """Return what has to be the same on every node, as hashes and versions."""
    content = "".join(entry.content_sha256 for entry in (inputs.base, *inputs.datasets))
    return {
        "values": values_sha256(values),
        "inputs": hashlib.sha256(content.encode()).hexdigest(),
        **{f"{name}'s version": version for name, version in inputs.versions.items()},
    }


def run_together(
    place: Place,
    key: bytes,
    facts: Mapping[str, str],
    stop: Callable[[], bool],
    notify: Notify,
    body: Callable[[Meeting | None], int],
) -> int:
    """Meet the other nodes, do the work, and end as they do.

    Args:
        place: This node's place; with one node the work starts at once.
        key: The run's key, by which nodes authenticate each other.
        facts: What has to be the same on every node.
        stop: Whether this process was requested to stop.
        notify: Takes one line about what is being waited for.
        body: The work; it takes the meeting and returns the exit code.

    Returns:
        The exit code: 0 and 143 only after node 0 has ended likewise, since it publishes for all nodes.

    Raises:
        UnavailableError: The other nodes do not join, train something else, fail or are lost.
    """
    if place.nodes == 1:
        return body(None)
    with Meeting(place, key, facts) as meeting:
        if not meeting.open(stop, notify):
            return TERMINATED
        code = 1
        try:
            code = body(meeting)
            meeting.agree(code)
        except TuneyardError as error:
            code = error.exit_code
            raise
        finally:
            meeting.send_ended(code)
        return code


class Meeting:
    """One node's connections to the others, and what it knows of them; as a context manager, it closes them.

    Args:
        place: This node's place.
        key: The run's key.
        facts: What has to be the same on every node.

    Attributes:
        place: This node's place.
        facts: What has to be the same on every node, the number of nodes included.
        listener: The listening socket for torch, on node 0 once `wait_until_ready` has returned its port.
    """

    def __init__(self, place: Place, key: bytes, facts: Mapping[str, str]) -> None:
        self.place = place
        self.listener: socket.socket | None = None
        self.facts = {**facts, "nodes": str(place.nodes)}
        self._key = key
        self._unauthenticated = threading.Semaphore(_UNAUTHENTICATED)
        self._foreign = False
        self._changed = threading.Condition()
        self._links: dict[int, Link] = {}
        self._server: socket.socket | None = None
        self._underway = self._closing = False
        self._answer = ""
        self._refused: dict[int, str] = {}
        self._ready: set[int] = set()
        self._port = 0
        self._ended: dict[int, int] = {}
        self._lost: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closing = True
            links = list(self._links.values())
            self._changed.notify_all()
        if self.listener:
            self.listener.close()
        if self._server:
            with suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # without it, `accept` keeps waiting
            self._server.close()
        for link in links:
            link.end_sending()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for link in links:  # closing a connection with unread messages would also discard the last ones sent
            if link.reader:
                link.reader.join(max(0.0, deadline - time.monotonic()))
            link.close()

    # ---- meet ----

    def open(self, stop: Callable[[], bool], notify: Notify) -> bool:
        """Wait until every node has joined.

        Args:
            stop: Whether this process was requested to stop.
            notify: Takes one line about what is being waited for.

        Returns:
            False if this process was requested to stop.

        Raises:
            UnavailableError: The time is up, or the other nodes train something else.
        """
        seconds = number_of("TUNEYARD_MEETING_SECONDS", MEETING_SECONDS, float)
        threading.Thread(target=self._beat, daemon=True).start()
        notify(f"Node {self.place.node} of {self.place.nodes}: waiting up to {seconds:.0f} s for the others.")
        met = self._gather(seconds, stop) if self.place.node == 0 else self._join(seconds, stop, notify)
        if met:
            notify(f"All {self.place.nodes} nodes have joined.")
        return met

    def _gather(self, seconds: float, stop: Callable[[], bool]) -> bool:
        try:
            self._server = self._open_port(self.place.port)
        except OSError as error:
            raise UnavailableError(
                f"Node 0 can't listen on port {self.place.port}: {error}.",
                hint="Set TUNEYARD_MASTER_PORT to a port that is free, the same on all nodes.",
            ) from error
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()
        if self._wait(lambda: self._underway, seconds, stop):
            return True
        if stop():
            return False
        missing = sorted(set(range(1, self.place.nodes)) - set(self._links))
        why = "".join(f"; node {node} was refused: {reason}" for node, reason in sorted(self._refused.items()))
        raise UnavailableError(
            f"Node(s) {', '.join(map(str, missing))} did not join within {seconds:.0f} s{why}.", hint=_RESTART
        )

    def _accept(self, server: socket.socket) -> None:
        while not self._closing:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            if self._closing:
                connection.close()
                return
            if not self._unauthenticated.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._admit, args=(connection,), daemon=True).start()

    def _admit(self, connection: socket.socket) -> None:
        """Let a node join that authenticates and has the same facts, or send it why not."""
        link = Link(connection, _HANDSHAKE_SECONDS)
        try:
            node = link.admit(self._key, self.place.nodes)
        finally:
            self._unauthenticated.release()
        if not node:
            link.close()
            return
        why = _difference(self.facts, link.receive().get("facts"))
        with self._changed:
            late = self._underway
            if why:
                self._refused[node] = why
            elif not late:
                self._refused.pop(node, None)
                replaced = self._links.get(node)
                self._links[node] = link
                if replaced:  # it died while waiting, and was started again
                    replaced.close()
                self._start_receiving(node, link)
                self._underway = len(self._links) == self.place.nodes - 1
                if self._underway:
                    self._send_all({"type": "welcome"})
            self._changed.notify_all()
        if why:
            link.send({"type": "refused", "why": why})
            link.close()
        elif late:
            link.send({"type": "underway"})
            link.close()
            if node not in self._ended:  # a node is started again only after its first process has died
                self._note_lost(node)

    def _join(self, seconds: float, stop: Callable[[], bool], notify: Notify) -> bool:
        deadline, notified = time.monotonic() + seconds, False
        while time.monotonic() < deadline:
            answer = self._request(deadline, stop)
            if stop():
                return False
            if answer == "welcome":
                return True
            if answer == "refused":
                raise UnavailableError(f"Node 0 refused this node: {self._refused[0]}.", hint=_RESTART)
            if answer == "underway":
                deadline = time.monotonic() + seconds  # node 0 is alive, and ends before it starts again
                if not notified:
                    notify("The other nodes are training without this one: waiting until they restart.")
                notified = True
            self._wait(lambda: False, 1.0, stop)
        what = "; the process that listens there does not have this run's key" if self._foreign else ""
        raise UnavailableError(
            f"Node 0 was not reached at '{self.place.address}', port {self.place.port}, within {seconds:.0f} s{what}.",
            hint=_RESTART,
        )

    def _request(self, deadline: float, stop: Callable[[], bool]) -> str:
        """Connect to node 0 and return its answer; empty if there is none."""
        try:
            connection = socket.create_connection((self.place.address, self.place.port), timeout=_HANDSHAKE_SECONDS)
        except OSError:  # node 0 does not listen yet, or its name does not resolve yet
            return ""
        link = Link(connection, _HANDSHAKE_SECONDS)
        self._foreign = not link.prove(self._key, self.place.node)
        if self._foreign:
            link.close()
            return ""
        with self._changed:
            self._answer = ""
            self._links[0] = link
            self._start_receiving(0, link)
        link.send({"facts": self.facts})
        self._wait(lambda: bool(self._answer), deadline - time.monotonic(), stop)
        return self._answer

    # ---- while the run lasts ----

    def peer_failure(self) -> UnavailableError | None:
        """Return why this node can't continue: another one is lost or has failed; None otherwise."""
        with self._changed:
            failed = next(((node, code) for node, code in self._ended.items() if code not in _SUCCESS), None)
            if self._lost is not None:
                return UnavailableError(f"Node {self._lost} was lost.", hint=_RESTART, node=self._lost)
            if failed:
                text = f"Node {failed[0]} has ended with exit code {failed[1]}."
                return UnavailableError(text, hint=f"See that node's log for the reason. {_RESTART}", node=failed[0])
        return None

    def wait_until_ready(self, stop: Callable[[], bool], notify: Notify) -> int | None:
        """Wait until every node has prepared its data.

        Args:
            stop: Whether this process was requested to stop.
            notify: Takes one line about what is being waited for.

        Returns:
            The port at node 0 for torch; None if this node or another one was requested to stop.

        Raises:
            UnavailableError: Another node is lost or has failed.
        """
        with self._changed:
            self._ready.add(self.place.node)
            self._send_all({"type": "ready", "node": self.place.node})
        notify("Ready, waiting for the other nodes to be ready.")

        def settled() -> bool:
            all_ready = self.place.node == 0 and len(self._ready) == self.place.nodes
            return bool(all_ready or self._port or self._ended or self._lost is not None)

        self._wait(settled, None, stop)
        self._raise_peer_failure()
        if stop() or (self._ended and not self._port):
            return None
        if self.place.node == 0:
            self.listener = self._open_port(0)
            self._port = int(self.listener.getsockname()[1])
            with self._changed:
                self._send_all({"type": "go", "port": self._port})
        return self._port

    def agree(self, code: int) -> None:
        """Wait, if this node has succeeded, until it is known whether the others have too.

        Args:
            code: The exit code of this node.

        Raises:
            UnavailableError: Another node is lost or has failed.
        """
        if self.place.node:
            if code in _SUCCESS:
                self.send_ended(code)
                self._wait(lambda: 0 in self._ended or self._lost is not None, None, never)
                self._raise_peer_failure()
        elif code == TERMINATED:
            self._wait(lambda: len(self._ended) == self.place.nodes - 1, _AGREE_SECONDS, never)
            if any(ended not in _SUCCESS for ended in self._ended.values()):
                self._raise_peer_failure()

    def send_ended(self, code: int) -> None:
        """Send this node's exit code to the others."""
        with self._changed:
            self._send_all({"type": "ended", "node": self.place.node, "code": code})

    # ---- connections ----

    def _raise_peer_failure(self) -> None:
        failure = self.peer_failure()
        if failure:
            raise failure

    def _open_port(self, port: int) -> socket.socket:
        """Listen on the address that the other nodes connect to, and on no other if it is known."""
        try:
            return listen(self.place.own_address, port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return listen("", port)  # the address is another machine's that forwards to this one

    def _wait(self, settled: Callable[[], bool], seconds: float | None, stop: Callable[[], bool]) -> bool:
        """Wait until something is settled; return False if the time is up or a stop was requested."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not settled():
                if stop() or (deadline is not None and time.monotonic() >= deadline):
                    return False
                self._changed.wait(_POLL_SECONDS)
        return True

    def _beat(self) -> None:
        while not self._wait(lambda: self._closing, BEAT_SECONDS, never):
            with self._changed:
                links = list(self._links.values())
            for link in links:
                link.send({"type": "beat"})

    def _send_all(self, message: Mapping[str, Any], but: int = -1) -> None:
        for node, link in self._links.items():
            if node != but:
                link.send(message)

    def _start_receiving(self, node: int, link: Link) -> None:
        link.set_timeout(SILENCE_SECONDS)
        link.reader = threading.Thread(target=self._receive, args=(node, link), daemon=True)
        link.reader.start()

    def _receive(self, node: int, link: Link) -> None:
        while message := link.receive():
            with self._changed:
                self._handle(node, message)
                self._changed.notify_all()
        link.end_sending()
        link.end_receiving()
        with self._changed:
            if self._links.get(node) is not link or self._closing:
                return
            if not self._underway:
                self._links.pop(node).close()
                self._answer = self._answer or "gone"
                self._changed.notify_all()
                return
        if node not in self._ended:
            self._note_lost(node)

    def _handle(self, node: int, message: Mapping[str, Any]) -> None:
        match message.get("type"):
            case "welcome" | "refused" | "underway" as answer:
                self._refused[0] = str(message.get("why", ""))
                self._underway = answer == "welcome"
                self._answer = answer
            case "ready":
                self._ready.add(node)
            case "go":
                self._port = int(message["port"])
            case "ended" if self._underway:
                self._ended[int(message["node"])] = int(message["code"])
                if self.place.node == 0:
                    self._send_all(message, but=node)
            case "lost":
                self._lost = int(message["node"])
            case _:  # a beat
                pass

    def _note_lost(self, node: int) -> None:
        with self._changed:
            if self._lost is None and not self._closing:
                self._lost = node
                if self.place.node == 0:
                    self._send_all({"type": "lost", "node": node}, but=node)
            self._changed.notify_all()


def _difference(ours: Mapping[str, str], theirs: Any) -> str:
    """Return how the facts of another node differ from node 0's; empty if they do not."""
    received = theirs if isinstance(theirs, dict) else {}
    names = sorted(name for name in {*ours, *received} if ours.get(name) != received.get(name))
    return f"its {' and '.join(names)} differ from node 0's" if names else ""
