"""Connections between nodes: proven on both sides, and each line signed with its direction and its place."""

from __future__ import annotations

import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tuneyard.errors import InvalidValuesError
from tuneyard.train.links import Link, key_of_run

KEY = b"k" * 32


class Overhearing(Link):
    """A link that notes what it reads before both have proven who they are."""

    overheard: list[bytes]

    def _receive(self):
        line = self._lines.readline()
        self.overheard.append(line)
        return json.loads(line)


def linked(key: bytes = KEY, other: bytes = KEY, overheard: list[bytes] | None = None) -> tuple[Link, Link, int, bool]:
    """Connect two links, and let node 1 prove itself to node 0."""
    one, two = socket.socketpair()
    server, client = Link(one, 5) if overheard is None else Overhearing(one, 5), Link(two, 5)
    if isinstance(server, Overhearing):
        server.overheard = overheard
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


def raw(server: Link, client: Link, *words: dict[str, object]) -> list[bytes]:
    """Say words, and take the lines off the wire before the other side reads them."""
    for one in words:
        client.say(one)
    return [server._lines.readline() for _ in words]


def test_both_sides_say_and_read(pair):
    server, client = pair
    for number in range(3):
        client.say({"n": number, "text": "ü\n"})
        server.say({"answer": number})
        assert server.read() == {"n": number, "text": "ü\n"}
        assert client.read() == {"answer": number}


def test_different_keys_let_nobody_in():
    server, _, node, proven = linked(other=b"o" * 32)
    assert (node, proven) == (0, False)
    server.close()


def test_nothing_is_said_before_both_have_proven_who_they_are():
    one, two = socket.socketpair()
    link = Link(one, 1)
    with pytest.raises(AssertionError):
        link.say({"facts": 1})
    two.sendall(b'{"say": "welcome"}\n')
    assert link.read() == {}
    link.close()
    two.close()


def test_every_connection_has_numbers_of_its_own():
    seen = set()
    for _ in range(3):
        server, client, _, _ = linked()
        (line,) = raw(server, client, {"same": 1})
        seen.add(line)
        server.close()
        client.close()
    assert len(seen) == 3


def test_what_was_overheard_of_one_connection_opens_no_other():
    overheard: list[bytes] = []
    server, client, _, _ = linked(overheard=overheard)
    server.close()
    client.close()
    one, two = socket.socketpair()
    again = Link(one, 5)
    two.sendall(overheard[0])
    assert again.admit(KEY, 3) == 0
    again.close()
    two.close()


@pytest.mark.parametrize(
    "words", [b"[" * 60_000, b"{" * 60_000, b"\xff", b'"' + b"x" * 60_000, b"7", b"[]", b"null", b""]
)
def test_words_that_are_no_object_are_no_error_but_another_one_s(words):
    one, two = socket.socketpair()
    link = Link(one, 5)
    two.sendall(words + b"\n")
    assert link.admit(KEY, 3) == 0
    two.close()
    link.close()


@pytest.mark.parametrize("change", ["repeated", "reordered", "changed", "its own signature", "reflected", "unsigned"])
def test_a_line_that_is_not_the_other_side_s_next_ends_the_connection(pair, change):
    server, client = pair
    first, second = raw(server, client, {"say": "beat"}, {"say": "ended", "code": 0})
    told = {
        "repeated": [first, first],
        "reordered": [second, first],
        "changed": [first.replace(b"beat", b"lost"), second],
        "its own signature": [b"0" * 64 + first[64:], second],
        "unsigned": [first.partition(b" ")[2], second],
        "reflected": [],
    }[change]
    if change == "reflected":
        server.say({"say": "beat"})
        told = [client._lines.readline()]
    client.connection.sendall(b"".join(told))
    read = [server.read() for _ in told]
    assert {} in read
    assert {"say": "ended", "code": 0} not in read


def test_a_key_is_of_one_run_and_never_the_secret_it_is_made_of(monkeypatch):
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
