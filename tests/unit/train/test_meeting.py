"""Nodes meet over real connections, and each learns how another one ended."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tuneyard.errors import InvalidValuesError, UnavailableError, UsageError
from tuneyard.train import meeting
from tuneyard.train.meeting import Meeting, Place, together

FACTS = {"values": "abc"}


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
            return together(place, FACTS, never, quiet, body)
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
    hello = b'{"node": 2, "facts": {"values": "abc", "nodes": "3"}}\n'
    with ExitStack() as stack:

        def impostor():
            connection = stack.enter_context(_connected(port))
            connection.sendall(hello)
            with connection.makefile("rb") as lines:
                while b"welcome" not in lines.readline():
                    pass
            if how == "gone":
                connection.close()
            if how == "again":
                stack.enter_context(_connected(port)).sendall(hello)

        def wait(met):
            met._wait(lambda: met._lost is not None, 15, never)
            raise met.trouble()

        def node(place):
            with pytest.raises(UnavailableError) as caught:
                together(place, FACTS, never, quiet, wait)
            return str(caught.value)

        with ThreadPoolExecutor(3) as pool:
            said = [pool.submit(node, place) for place in places(3, port)[:2]]
            pool.submit(impostor).result(timeout=15)
            assert [one.result(timeout=15) for one in said] == ["node 2 is gone", "node 2 is gone"]


def _connected(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            threading.Event().wait(0.05)


def test_strangers_at_the_port_change_nothing(port):
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(together, first, FACTS, never, quiet, ready(0))
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"node": 7}\n', b'{"node": "x"}\n', b"\xff\n"):
            with _connected(port) as stranger:
                stranger.sendall(words)
                assert stranger.recv(100) == b""
        assert together(other, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_a_node_waits_for_a_stop_too(port):
    for place in places(2, port):
        with Meeting(place, FACTS) as met:
            assert not met.open(lambda: True, quiet)


def test_a_place_is_read_from_what_kubernetes_gives(monkeypatch):
    monkeypatch.setenv("TUNEYARD_NODES", "3")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    monkeypatch.setenv("TUNEYARD_NODE_SERVICE", "tune")
    assert Place.of(3) == Place(3, 2, "tune-0.tune", 29500)
    with pytest.raises(InvalidValuesError, match="ask for 2 node"):
        Place.of(2)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    with pytest.raises(UsageError, match="no place among 3 nodes"):
        Place.of(3)
