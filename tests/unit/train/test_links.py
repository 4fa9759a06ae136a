"""Connections between nodes: both sides authenticate, and each message is signed with its direction and its number."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.train.links import Link, key_of_run

KEY = b"k" * 32


class Recording(Link):
    """A link that records what it receives before both sides are authenticated."""

    recorded: list[bytes]

    def _receive_unsigned(self):
        line = self._lines.readline()
        self.recorded.append(line)
        return json.loads(line)


def linked(key: bytes = KEY, other: bytes = KEY, recorded: list[bytes] | None = None) -> tuple[Link, Link, int, bool]:
    """Connect two links, and let node 1 prove itself to node 0."""
    one, two = socket.socketpair()
    server, client = Link(one, 5) if recorded is None else Recording(one, 5), Link(two, 5)
    if isinstance(server, Recording):
        server.recorded = recorded
    with ThreadPoolExecutor(1) as pool:
        admitted = pool.submit(server.admit, key, 3)
        proven = client.prove(other, 1)
        if not proven:
            client.close()
        return server, client, admitted.result(timeout=10), proven


@pytest.fixture
def pair():
    server, client, node, proven = linked()
    assert (node, proven) == (1, True)
    yield server, client
    server.close()
    client.close()


def raw(server: Link, client: Link, *messages: dict[str, object]) -> list[bytes]:
    """Send messages, and take the lines off the wire before the other side receives them."""
    for message in messages:
        client.send(message)
    return [server._lines.readline() for _ in messages]


def test_both_sides_send_and_receive(pair):
    server, client = pair
    for number in range(3):
        client.send({"n": number, "text": "ü\n"})
        server.send({"answer": number})
        assert server.receive() == {"n": number, "text": "ü\n"}
        assert client.receive() == {"answer": number}


def test_different_keys_admit_nobody():
    server, _, node, proven = linked(other=b"o" * 32)
    assert (node, proven) == (0, False)
    server.close()


def test_no_message_passes_before_both_sides_are_authenticated():
    one, two = socket.socketpair()
    link = Link(one, 1)
    with pytest.raises(AssertionError):
        link.send({"facts": 1})
    two.sendall(b'{"type": "welcome"}\n')
    assert link.receive() == {}
    link.close()
    two.close()


def test_every_connection_has_its_own_nonces():
    seen = set()
    for _ in range(3):
        server, client, _, _ = linked()
        (line,) = raw(server, client, {"same": 1})
        seen.add(line)
        server.close()
        client.close()
    assert len(seen) == 3


def test_a_recorded_handshake_opens_no_other_connection():
    recorded: list[bytes] = []
    server, client, _, _ = linked(recorded=recorded)
    server.close()
    client.close()
    one, two = socket.socketpair()
    second = Link(one, 5)
    two.sendall(recorded[0])
    assert second.admit(KEY, 3) == 0
    second.close()
    two.close()


@pytest.mark.parametrize(
    "noise", [b"[" * 60_000, b"{" * 60_000, b"\xff", b'"' + b"x" * 60_000, b"7", b"[]", b"null", b""]
)
def test_a_handshake_that_is_not_an_object_raises_nothing(noise):
    one, two = socket.socketpair()
    link = Link(one, 5)
    two.sendall(noise + b"\n")
    assert link.admit(KEY, 3) == 0
    two.close()
    link.close()


@pytest.mark.parametrize("change", ["repeated", "reordered", "changed", "another signature", "reflected", "unsigned"])
def test_a_message_that_is_not_the_peers_next_ends_the_connection(pair, change):
    server, client = pair
    first, second = raw(server, client, {"type": "beat"}, {"type": "ended", "code": 0})
    lines = {
        "repeated": [first, first],
        "reordered": [second, first],
        "changed": [first.replace(b"beat", b"lost"), second],
        "another signature": [b"0" * 64 + first[64:], second],
        "unsigned": [first.partition(b" ")[2], second],
        "reflected": [],
    }[change]
    if change == "reflected":
        server.send({"type": "beat"})
        lines = [client._lines.readline()]
    client.connection.sendall(b"".join(lines))
    received = [server.receive() for _ in lines]
    assert {} in received
    assert {"type": "ended", "code": 0} not in received


def test_each_run_has_its_own_key_which_never_contains_the_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a store's secret key")
    one, other = key_of_run("bucket/experiments/a"), key_of_run("bucket/experiments/b")
    assert len(one) == len(other) == 32
    assert one != other
    assert one == key_of_run("bucket/experiments/a")
    assert b"secret" not in one
    monkeypatch.setenv("TUNEYARD_NODES_KEY", "a key of the nodes' own")
    assert key_of_run("bucket/experiments/a") != one
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert key_of_run("bucket/experiments/a") != one


@pytest.mark.parametrize(("given", "what"), [("", "is missing"), ("short", "has fewer than 16 characters")])
def test_nodes_without_a_secret_are_refused(monkeypatch, given, what):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("TUNEYARD_NODES_KEY", given)
    with pytest.raises(InvalidValuesError, match=what) as caught:
        key_of_run("bucket/experiments/a")
    assert "nodesSecret" in str(caught.value)
    assert "TUNEYARD_NODES_KEY" in caught.value.hint
    assert "short" not in str(caught.value)
