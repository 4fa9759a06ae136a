"""Several nodes as one training: they meet before torch is loaded, and each learns when another ends or is gone.

Every node's supervising process holds one TCP connection to node 0's for as long as the run lasts. What a lost node
means must not depend on how a collective of torch fails, which may take half an hour: a connection that breaks, or is
silent for `SILENCE_SECONDS`, ends all the others with 8, and whoever started them starts all of them again.

A node proves that it has the run's key (`links`), and is shown the same of node 0. Then it says what it is about to
train, and node 0 says `welcome` to all once everyone has come. Each says `ready` when its data is prepared; node 0 says
`go` with the port that torch meets at, one of its own. `ended` tells an exit code. Node 0 passes on what the others
say. `beat` every few seconds keeps silence apart from work.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

from tuneyard.errors import TERMINATED, TuneyardError, UnavailableError
from tuneyard.job.inputs import Inputs
from tuneyard.progress import Notify
from tuneyard.train.links import Link, listen
from tuneyard.train.place import Place
from tuneyard.values import FinetuneValues, values_sha256

MEETING_SECONDS = 600.0
"""How long a node waits for the others, unless `TUNEYARD_MEETING_SECONDS` says otherwise."""
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0
"""After so long without a word a node is gone, even where its connection still stands."""
_AGREE_SECONDS = 60.0
_POLL_SECONDS = 0.2
_CLOSE_SECONDS = 3.0
_HELLO_SECONDS = 10.0
_STRANGERS = 64
"""So many connections at once may still have to prove who they are."""
_WELL = (0, TERMINATED)
_AGAIN = "whoever started the nodes starts all of them again; training goes on from the newest checkpoint"


def facts_of(values: FinetuneValues, inputs: Inputs) -> dict[str, str]:
    """Give what has to be the same on every node, as hashes and versions."""
    content = "".join(entry.content_sha256 for entry in (inputs.base, *inputs.datasets))
    return {
        "values": values_sha256(values),
        "inputs": hashlib.sha256(content.encode()).hexdigest(),
        **{f"{name}'s version": version for name, version in inputs.versions.items()},
    }


def together(
    place: Place,
    key: bytes,
    facts: Mapping[str, str],
    stop: Callable[[], bool],
    tell: Notify,
    body: Callable[[Meeting | None], int],
) -> int:
    """Meet the other nodes, do the work, and end as they do.

    Args:
        place: This node's place; with one node the work is done at once.
        key: The run's key, by which nodes know each other.
        facts: What has to be the same on every node.
        stop: Whether this process has been told to stop.
        tell: Told of what is waited for.
        body: The work; given the meeting, it returns the exit code.

    Returns:
        The exit code: 0 and 143 only once node 0 has ended so too, since what it has to publish is everybody's.

    Raises:
        UnavailableError: Where the others don't come, train something else, fail or are lost.
    """
    if place.nodes == 1:
        return body(None)
    with Meeting(place, key, facts) as meeting:
        if not meeting.open(stop, tell):
            return TERMINATED
        code = 1
        try:
            code = body(meeting)
            meeting.agree(code)
        except TuneyardError as error:
            code = error.exit_code
            raise
        finally:
            meeting.say_ended(code)
        return code


class Meeting:
    """One node's connections to the others, and what it has learnt from them; its block closes them.

    Args:
        place: This node's place.
        key: The run's key.
        facts: What has to be the same on every node.

    Attributes:
        listener: The port for torch, open at node 0 once `all_ready` has returned it.
    """

    def __init__(self, place: Place, key: bytes, facts: Mapping[str, str]) -> None:
        self.place = place
        self.listener: socket.socket | None = None
        self._key = key
        self._strangers = threading.Semaphore(_STRANGERS)
        self._stranger = False
        self.facts = {**facts, "nodes": str(place.nodes)}
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
                self._server.shutdown(socket.SHUT_RDWR)  # else `accept` would go on waiting
            self._server.close()
        for link in links:
            link.finish()
        until = time.monotonic() + _CLOSE_SECONDS
        for link in links:  # a connection closed with words unread would take our last ones with it
            if link.reader:
                link.reader.join(max(0.0, until - time.monotonic()))
            link.close()

    # ---- come together ----

    def open(self, stop: Callable[[], bool], tell: Notify) -> bool:
        """Wait until every node has come.

        Returns:
            False where this process was told to stop.

        Raises:
            UnavailableError: Where the time is up, or the others train something else.
        """
        seconds = float(os.environ.get("TUNEYARD_MEETING_SECONDS") or MEETING_SECONDS)
        threading.Thread(target=self._beat, daemon=True).start()
        tell(f"node {self.place.node} of {self.place.nodes}: waiting up to {seconds:.0f} s for the others")
        come = self._gather(seconds, stop) if self.place.node == 0 else self._join(seconds, stop, tell)
        if come:
            tell(f"all {self.place.nodes} nodes are here")
        return come

    def _gather(self, seconds: float, stop: Callable[[], bool]) -> bool:
        try:
            self._server = self._open_port(self.place.port)
        except OSError as error:
            raise UnavailableError(
                f"node 0 can't listen on port {self.place.port}: {error}", hint="set TUNEYARD_MASTER_PORT to a free one"
            ) from error
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()
        if self._wait(lambda: self._underway, seconds, stop):
            return True
        if stop():
            return False
        missing = sorted(set(range(1, self.place.nodes)) - set(self._links))
        why = "".join(f"; node {node} was refused: {reason}" for node, reason in sorted(self._refused.items()))
        raise UnavailableError(
            f"node(s) {', '.join(map(str, missing))} did not come within {seconds:.0f} s{why}", hint=_AGAIN
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
            if not self._strangers.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection: socket.socket) -> None:
        """Take a node in that says hello, or tell it why not."""
        link = Link(connection, _HELLO_SECONDS)
        try:
            node = link.admit(self._key, self.place.nodes)
        finally:
            self._strangers.release()
        if not node:
            link.close()
            return
        why = _difference(self.facts, link.read().get("facts"))
        with self._changed:
            again = self._underway
            if why:
                self._refused[node] = why
            elif not again:
                self._refused.pop(node, None)
                before = self._links.get(node)
                self._links[node] = link
                if before:  # it died while waiting, and is back
                    before.close()
                self._start_reading(node, link)
                self._underway = len(self._links) == self.place.nodes - 1
                if self._underway:
                    self._pass_on({"say": "welcome"})
            self._changed.notify_all()
        if why:
            link.say({"say": "refused", "why": why})
            link.close()
        elif again:
            link.say({"say": "underway"})
            link.close()
            if node not in self._ended:  # it is started again only where the one before is no more
                self._note_lost(node)

    def _join(self, seconds: float, stop: Callable[[], bool], tell: Notify) -> bool:
        until, told = time.monotonic() + seconds, False
        while time.monotonic() < until:
            answer = self._ask(until, stop)
            if stop():
                return False
            if answer == "welcome":
                return True
            if answer == "refused":
                raise UnavailableError(f"node 0 trains something else: {self._refused[0]}", hint=_AGAIN)
            if answer == "underway":
                until = time.monotonic() + seconds  # node 0 lives, and ends before it begins anew
                if not told:
                    tell("the other nodes are under way without this one: waiting until they begin again")
                told = True
            self._wait(lambda: False, 1.0, stop)
        what = "; what answers there does not have this run's key" if self._stranger else ""
        raise UnavailableError(
            f"node 0 was not met at {self.place.address}, port {self.place.port}, within {seconds:.0f} s{what}",
            hint=_AGAIN,
        )

    def _ask(self, until: float, stop: Callable[[], bool]) -> str:
        try:
            connection = socket.create_connection((self.place.address, self.place.port), timeout=_HELLO_SECONDS)
        except OSError:  # it is not there yet, or its name is not known yet
            return ""
        link = Link(connection, _HELLO_SECONDS)
        self._stranger = not link.prove(self._key, self.place.node)
        if self._stranger:
            link.close()
            return ""
        with self._changed:
            self._answer = ""
            self._links[0] = link
            self._start_reading(0, link)
        link.say({"facts": self.facts})
        self._wait(lambda: bool(self._answer), until - time.monotonic(), stop)
        return self._answer

    # ---- while the run lasts ----

    def trouble(self) -> UnavailableError | None:
        """Tell why this node can't go on: another one is lost or has failed; None while all is well."""
        with self._changed:
            failed = next(((node, code) for node, code in self._ended.items() if code not in _WELL), None)
            if self._lost is not None:
                return UnavailableError(f"node {self._lost} is gone", hint=_AGAIN, node=self._lost)
            if failed:
                text = f"node {failed[0]} has ended with exit code {failed[1]}"
                return UnavailableError(text, hint=f"that node's log tells why; {_AGAIN}", node=failed[0])
        return None

    def all_ready(self, stop: Callable[[], bool], tell: Notify) -> int | None:
        """Wait until every node has its data prepared.

        Returns:
            The port at node 0 for torch; None where this node or another one was told to stop.

        Raises:
            UnavailableError: Where another node is lost or has failed.
        """
        with self._changed:
            self._ready.add(self.place.node)
            self._pass_on({"say": "ready", "node": self.place.node})
        tell("ready, waiting for the other nodes to be so")

        def settled() -> bool:
            everyone = self.place.node == 0 and len(self._ready) == self.place.nodes
            return bool(everyone or self._port or self._ended or self._lost is not None)

        self._wait(settled, None, stop)
        trouble = self.trouble()
        if trouble:
            raise trouble
        if stop() or (self._ended and not self._port):
            return None
        if self.place.node == 0:
            self.listener = self._open_port(0)
            self._port = int(self.listener.getsockname()[1])
            with self._changed:
                self._pass_on({"say": "go", "port": self._port})
        return self._port

    def agree(self, code: int) -> None:
        """Wait, where this node has ended well, until it is known that the others have too.

        Args:
            code: How this node has ended.

        Raises:
            UnavailableError: Where another node is lost or has failed.
        """
        if self.place.node:
            if code in _WELL:
                self.say_ended(code)
                self._wait(lambda: 0 in self._ended or self._lost is not None, None, _never)
                self._raise_trouble()
        elif code == TERMINATED:
            self._wait(lambda: len(self._ended) == self.place.nodes - 1, _AGREE_SECONDS, _never)
            if any(ended not in _WELL for ended in self._ended.values()):
                self._raise_trouble()

    def _raise_trouble(self) -> None:
        trouble = self.trouble()
        if trouble:
            raise trouble

    def say_ended(self, code: int) -> None:
        """Tell the others how this node has ended."""
        with self._changed:
            self._pass_on({"say": "ended", "node": self.place.node, "code": code})

    # ---- underneath ----

    def _open_port(self, port: int) -> socket.socket:
        """Listen where the others reach this machine, and nowhere else where that is known."""
        try:
            return listen(self.place.own_address, port)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            return listen("", port)  # an address that leads here by the way of another machine

    def _wait(self, settled: Callable[[], bool], seconds: float | None, stop: Callable[[], bool]) -> bool:
        """Wait until something is settled; False where the time is up or the process was told to stop."""
        until = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while not settled():
                if stop() or (until is not None and time.monotonic() >= until):
                    return False
                self._changed.wait(_POLL_SECONDS)
        return True

    def _beat(self) -> None:
        while not self._wait(lambda: self._closing, BEAT_SECONDS, _never):
            with self._changed:
                links = list(self._links.values())
            for link in links:
                link.say({"say": "beat"})

    def _pass_on(self, words: Mapping[str, Any], but: int = -1) -> None:
        for node, link in self._links.items():
            if node != but:
                link.say(words)

    def _start_reading(self, node: int, link: Link) -> None:
        link.silence(SILENCE_SECONDS)
        link.reader = threading.Thread(target=self._listen, args=(node, link), daemon=True)
        link.reader.start()

    def _listen(self, node: int, link: Link) -> None:
        while words := link.read():
            with self._changed:
                self._take(node, words)
                self._changed.notify_all()
        link.finish()
        link.read_no_more()
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

    def _take(self, node: int, words: Mapping[str, Any]) -> None:
        match words.get("say"):
            case "welcome" | "refused" | "underway" as answer:
                self._refused[0] = str(words.get("why", ""))
                self._underway = answer == "welcome"
                self._answer = answer
            case "ready":
                self._ready.add(node)
            case "go":
                self._port = int(words["port"])
            case "ended" if self._underway:
                self._ended[int(words["node"])] = int(words["code"])
                if self.place.node == 0:
                    self._pass_on(words, but=node)
            case "lost":
                self._lost = int(words["node"])
            case _:  # a beat
                pass

    def _note_lost(self, node: int) -> None:
        with self._changed:
            if self._lost is None and not self._closing:
                self._lost = node
                if self.place.node == 0:
                    self._pass_on({"say": "lost", "node": node}, but=node)
            self._changed.notify_all()


def _difference(ours: Mapping[str, str], theirs: Any) -> str:
    told = theirs if isinstance(theirs, dict) else {}
    names = sorted(name for name in {*ours, *told} if ours.get(name) != told.get(name))
    return f"its {' and '.join(names)} differ from node 0's" if names else ""


def _never() -> bool:
    return False
