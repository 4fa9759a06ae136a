"""Nodes meet over real connections, and each learns how another one ended."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tuneyard.errors import InvalidValuesError, UnavailableError, UsageError
from tuneyard.train import meeting
from tuneyard.train.links import Link
from tuneyard.train.meeting import Meeting, together
from tuneyard.train.place import Place

FACTS = {"values": "abc"}
KEY = b"the key of the run, 32 bytes long"


def never():
    return False


def quiet(line):
    del line


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "20")


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def places(nodes, port):
    return [Place(nodes, node, "127.0.0.1", port) for node in range(nodes)]


def run(bodies, port):
    """Let each node do its work in a thread; gives what each returned or raised."""

    def one(place, body):
        try:
            return together(place, KEY, FACTS, never, quiet, body)
        except UnavailableError as error:
            return error

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(one, places(len(bodies), port), bodies))


def ready(code):
    def body(met):
        assert met.all_ready(never, quiet)
        return code

    return body


def until_trouble(met):
    assert met.all_ready(never, quiet)
    while not (trouble := met.trouble()):
        threading.Event().wait(0.05)
    raise trouble


def test_all_nodes_get_the_same_port_and_it_is_not_the_meetings(port):
    ports = []

    def body(met):
        ports.append(met.all_ready(never, quiet))
        return 0

    assert run([body] * 3, port) == [0, 0, 0]
    assert len(set(ports)) == 1
    assert ports[0] not in (None, port)


def test_nodes_that_are_stopped_end_with_143_together(port):
    assert run([ready(143)] * 3, port) == [143, 143, 143]


def test_a_stop_before_training_ends_every_node_with_143(port):
    def body(met):
        return 143 if met.all_ready(never, quiet) is None else 0

    assert run([body, lambda met: 143, body], port) == [143, 143, 143]


def test_what_one_node_fails_with_is_told_to_all_others(port):
    first, failed, last = run([until_trouble, ready(6), until_trouble], port)
    assert failed == 6
    assert "node 1 has ended with exit code 6" in str(first)
    assert "node 1 has ended with exit code 6" in str(last)


def test_a_node_that_has_ended_well_fails_where_node_0_fails_after_it(port):
    first, other = run([ready(1), ready(0)], port)
    assert first == 1
    assert "node 0 has ended with exit code 1" in str(other)


@pytest.mark.parametrize("how", ["silent", "gone", "again"])
def test_a_node_that_is_silent_gone_or_there_again_is_lost_to_all_others(port, monkeypatch, how):
    monkeypatch.setattr(meeting, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(meeting, "BEAT_SECONDS", 0.2)
    with ExitStack() as stack:

        def said_hello():
            link = Link(stack.enter_context(_connected(port)), 15)
            stack.callback(link.close)
            assert link.prove(KEY, 2)
            link.say({"facts": {**FACTS, "nodes": "3"}})
            return link

        def comrade():
            link = said_hello()
            while link.read().get("say") != "welcome":
                pass
            if how == "gone":
                link.close()
            if how == "again":
                said_hello()

        def wait(met):
            met._wait(lambda: met._lost is not None, 15, never)
            raise met.trouble()

        def node(place):
            with pytest.raises(UnavailableError) as caught:
                together(place, KEY, FACTS, never, quiet, wait)
            return str(caught.value)

        with ThreadPoolExecutor(3) as pool:
            said = [pool.submit(node, place) for place in places(3, port)[:2]]
            pool.submit(comrade).result(timeout=15)
            assert [one.result(timeout=15) for one in said] == ["node 2 is gone", "node 2 is gone"]


def _connected(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            threading.Event().wait(0.05)


NOISE = (
    b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"node": 7}\n', b'{"node": "x"}\n', b"\xff\n", b"\n", b"{}\n" * 3,
    b'{"node": 1, "nonce": "", "proof": ""}\n', b'{"node": true, "nonce": 1, "proof": []}\n',
    b'{"node": 1, "facts": {"values": "abc", "nodes": "2"}}\n', b'{"say": "lost", "node": 0}\n',
    b'{"node": 1, "nonce": "%s", "proof": "%s"}\n' % (b"0" * 64, b"0" * 64),
)  # fmt: skip


def test_strangers_at_the_port_change_nothing_and_are_told_nothing_but_a_number(port):
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(together, first, KEY, FACTS, never, quiet, ready(0))
        for words in NOISE:
            with _connected(port) as stranger, stranger.makefile("rb") as lines:
                stranger.sendall(words)
                stranger.shutdown(socket.SHUT_WR)
                told = lines.read()
            assert set(json.loads(told)) == {"nonce"}
        assert together(other, KEY, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_more_strangers_than_may_wait_keep_no_node_out(port, monkeypatch):
    monkeypatch.setattr(meeting, "_STRANGERS", 3)
    monkeypatch.setattr(meeting, "_HELLO_SECONDS", 1.0)
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        waiting = pool.submit(together, first, KEY, FACTS, never, quiet, ready(0))
        for _ in range(9):
            stack.enter_context(_connected(port))
        assert together(other, KEY, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_a_node_with_another_key_is_no_node_of_the_run(port, monkeypatch):
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(together, first, KEY, FACTS, never, quiet, ready(0))
        with pytest.raises(UnavailableError, match="does not have this run's key"):
            together(other, b"another", FACTS, never, quiet, ready(0))
        with pytest.raises(UnavailableError, match=r"node\(s\) 1 did not come"):
            waiting.result(timeout=15)


def test_a_false_node_0_learns_nothing_of_a_node(port, monkeypatch):
    """It repeats what a node sends, claims to have a proof, or says welcome at once."""
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    heard = []

    def false_node_0(server):
        for answer in (None, b'{"proof": "%s"}\n' % (b"0" * 64), b'{"say": "welcome"}\n'):
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b'{"nonce": "%s"}\n' % (b"0" * 64))
                hello = lines.readline()
                connection.sendall(answer or hello)
                heard.append((hello, lines.readline()))

    with socket.create_server(("127.0.0.1", port)) as server, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(false_node_0, server)
        with pytest.raises(UnavailableError, match="does not have this run's key"):
            together(places(2, port)[1], KEY, FACTS, never, quiet, ready(0))
        answering.result(timeout=15)
    assert len(heard) == 3
    for hello, more in heard:
        assert set(json.loads(hello)) == {"node", "nonce", "proof"}
        assert more == b""


def test_node_0_listens_at_its_own_address_alone():
    with ExitStack() as stack:
        first = Place(2, 0, "127.0.0.2", 0, "127.0.0.2")
        met = stack.enter_context(Meeting(first, KEY, FACTS))
        for port in (0, 0):
            opened = stack.enter_context(met._open_port(port))
            assert opened.getsockname()[0] == "127.0.0.2"
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", opened.getsockname()[1]), timeout=5)
            socket.create_connection(("127.0.0.2", opened.getsockname()[1]), timeout=5).close()
        elsewhere = stack.enter_context(Meeting(Place(2, 0, "x", 0, "192.0.2.1"), KEY, FACTS))
        stack.enter_context(elsewhere._open_port(0))  # an address that leads here by the way of another machine


def test_the_port_for_torch_is_node_0_s_own_and_open_until_torch_has_it(port):
    addresses = []

    def body(met):
        assert met.all_ready(never, quiet)
        if met.place.node == 0:
            addresses.append(met.listener.getsockname())
        return 0

    first, other = (replace(place, own_address="127.0.0.1") for place in places(2, port))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda place: together(place, KEY, FACTS, never, quiet, body), (first, other)))
    assert addresses[0][0] == "127.0.0.1"


def test_a_node_waits_for_a_stop_too(port):
    for place in places(2, port):
        with Meeting(place, KEY, FACTS) as met:
            assert not met.open(lambda: True, quiet)


def test_a_place_is_read_from_what_kubernetes_gives(monkeypatch):
    monkeypatch.setenv("TUNEYARD_NODES", "3")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("TUNEYARD_NODE_SERVICE", "tune")
    assert Place.of(3) == Place(3, 2, "tune-0.tune", 29500)
    monkeypatch.setenv("TUNEYARD_NODE_ADDRESS", "10.0.0.7")
    assert Place.of(3).own_address == "10.0.0.7"
    monkeypatch.delenv("TUNEYARD_NODE_ADDRESS")
    for address, own in (("10.0.0.7", "10.0.0.7"), ("::1", "::1"), ("machine-1", "")):
        monkeypatch.setenv("TUNEYARD_MASTER_ADDR", address)
        monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
        assert Place.of(3).own_address == own
        monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
        assert Place.of(3).own_address == ""
    monkeypatch.delenv("TUNEYARD_MASTER_ADDR")
    with pytest.raises(InvalidValuesError, match="need 2 node"):
        Place.of(2)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(UsageError, match="no place among 3 nodes"):
        Place.of(3)
