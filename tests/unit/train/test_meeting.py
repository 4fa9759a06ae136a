"""Nodes meet over real connections, and each is notified when another one ends or is lost."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from tuneyard.errors import InvalidValuesError, UnavailableError, UsageError
from tuneyard.train import meeting
from tuneyard.train.links import Link
from tuneyard.train.meeting import Meeting, run_together
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
    """Let each node do its work in a thread; returns what each returned or raised."""

    def one(place, body):
        try:
            return run_together(place, KEY, FACTS, never, quiet, body)
        except UnavailableError as error:
            return error

    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(one, places(len(bodies), port), bodies))


def ready(code):
    def body(met):
        assert met.wait_until_ready(never, quiet)
        return code

    return body


def until_peer_failure(met):
    assert met.wait_until_ready(never, quiet)
    while not (peer_failure := met.peer_failure()):
        threading.Event().wait(0.05)
    raise peer_failure


def test_all_nodes_get_the_same_port_and_not_that_of_the_meeting(port):
    ports = []

    def body(met):
        ports.append(met.wait_until_ready(never, quiet))
        return 0

    assert run([body] * 3, port) == [0, 0, 0]
    assert len(set(ports)) == 1
    assert ports[0] not in (None, port)


def test_stopped_nodes_all_end_with_143(port):
    assert run([ready(143)] * 3, port) == [143, 143, 143]


def test_a_stop_before_training_ends_every_node_with_143(port):
    def body(met):
        return 143 if met.wait_until_ready(never, quiet) is None else 0

    assert run([body, lambda met: 143, body], port) == [143, 143, 143]


def test_all_nodes_learn_the_exit_code_of_a_failed_node(port):
    first, failed, last = run([until_peer_failure, ready(6), until_peer_failure], port)
    assert failed == 6
    assert "Node 1 has ended with exit code 6" in str(first)
    assert "Node 1 has ended with exit code 6" in str(last)


def test_a_node_that_has_succeeded_fails_if_node_0_fails_afterwards(port):
    first, other = run([ready(1), ready(0)], port)
    assert first == 1
    assert "Node 0 has ended with exit code 1" in str(other)


@pytest.mark.parametrize("how", ["silent", "gone", "restarted"])
def test_all_nodes_lose_a_node_that_is_silent_gone_or_restarted(port, monkeypatch, how):
    monkeypatch.setattr(meeting, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(meeting, "BEAT_SECONDS", 0.2)
    with ExitStack() as stack:

        def third_node():
            link = _joined(stack, port, node=2, nodes=3)
            while link.receive().get("type") != "welcome":
                pass
            if how == "gone":
                link.close()
            if how == "restarted":
                _joined(stack, port, node=2, nodes=3)

        def node(place):
            with pytest.raises(UnavailableError) as caught:
                run_together(place, KEY, FACTS, never, quiet, _work_until_lost)
            return str(caught.value)

        with ThreadPoolExecutor(3) as pool:
            errors = [pool.submit(node, place) for place in places(3, port)[:2]]
            pool.submit(third_node).result(timeout=15)
            assert [error.result(timeout=15) for error in errors] == ["Node 2 was lost.", "Node 2 was lost."]


def _joined(stack, port, *, node, nodes):
    """Join node 0 as another node's process does, as far as its facts."""
    link = Link(stack.enter_context(_connected(port)), 15)
    stack.callback(link.close)
    assert link.prove(KEY, node)
    link.send({"facts": {**FACTS, "nodes": str(nodes)}})
    return link


def _connected(port):
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=10)
        except OSError:
            threading.Event().wait(0.05)


@pytest.mark.parametrize("late", [0, 1])
def test_a_late_node_is_waited_for(port, late):
    waiting = threading.Event()

    def notify(line):
        if "waiting up to" in line:
            waiting.set()

    nodes = places(2, port)
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(run_together, nodes[1 - late], KEY, FACTS, never, notify, ready(0))
        assert waiting.wait(15)
        threading.Event().wait(1.5)  # longer than a node waits before it connects once more
        assert not early.done()
        assert run_together(nodes[late], KEY, FACTS, never, quiet, ready(0)) == 0
        assert early.result(timeout=15) == 0


@pytest.mark.parametrize("connection", ["closed", "open"])
def test_a_node_replaced_while_nodes_meet_joins_in_place_of_the_first(port, monkeypatch, connection):
    monkeypatch.setattr(meeting, "BEAT_SECONDS", 0.2)
    nodes = places(3, port)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        first = pool.submit(run_together, nodes[0], KEY, FACTS, never, quiet, ready(0))
        replaced = _joined(stack, port, node=1, nodes=3)
        assert replaced.receive() == {"type": "beat"}, "it has joined"
        if connection == "closed":
            replaced.close()
        second = pool.submit(run_together, nodes[1], KEY, FACTS, never, quiet, ready(0))
        threading.Event().wait(1.5)
        assert not first.done()
        assert run_together(nodes[2], KEY, FACTS, never, quiet, ready(0)) == 0
        assert [node.result(timeout=15) for node in (first, second)] == [0, 0]


def test_a_node_that_died_while_nodes_meet_is_missing(port, monkeypatch):
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    monkeypatch.setattr(meeting, "BEAT_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        waiting = pool.submit(run_together, places(3, port)[0], KEY, FACTS, never, quiet, ready(0))
        dead = _joined(stack, port, node=1, nodes=3)
        assert dead.receive() == {"type": "beat"}, "it has joined"
        dead.close()
        with pytest.raises(UnavailableError, match=r"Node\(s\) 1, 2 did not join"):
            waiting.result(timeout=15)


def test_a_node_replaced_during_training_waits_for_the_next_meeting(port):
    """The process of a lost node starts while node 0 still trains: it may not join, and node 0 has to start anew."""
    lines = []
    nodes = places(2, port)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        first = pool.submit(run_together, nodes[0], KEY, FACTS, never, quiet, _work_until_lost)
        lost = _joined(stack, port, node=1, nodes=2)
        while lost.receive().get("type") != "welcome":
            pass
        replacement = pool.submit(run_together, nodes[1], KEY, FACTS, never, lines.append, ready(0))
        with pytest.raises(UnavailableError, match=r"^Node 1 was lost\.$"):
            first.result(timeout=15)
        assert not replacement.done()
        assert run_together(nodes[0], KEY, FACTS, never, quiet, ready(0)) == 0
        assert replacement.result(timeout=15) == 0
    assert [line for line in lines if "training without this one" in line] == lines[1:2]


def _work_until_lost(met):
    assert met._wait(lambda: met._lost is not None, 15, never)
    raise met.peer_failure()


@pytest.mark.parametrize("how", ["silent", "gone"])
def test_node_0_is_lost_if_it_is_silent_or_gone(port, monkeypatch, how):
    monkeypatch.setattr(meeting, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(meeting, "BEAT_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", port)) as server:
        other = pool.submit(run_together, places(2, port)[1], KEY, FACTS, never, quiet, _work_until_lost)
        link = Link(server.accept()[0], 15)
        assert link.admit(KEY, 2) == 1
        assert link.receive() == {"facts": {**FACTS, "nodes": "2"}}
        link.send({"type": "welcome"})
        if how == "gone":
            link.close()
        with pytest.raises(UnavailableError, match=r"^Node 0 was lost\.$"):
            other.result(timeout=15)
        link.close()


def test_a_foreign_client_of_torch_gets_no_connection_and_keeps_no_node_out(port, monkeypatch):
    """The port is torch's default too: another training with the same address may connect by mistake."""
    from torch.distributed import DistNetworkError, TCPStore

    monkeypatch.setattr(meeting, "_HANDSHAKE_SECONDS", 1.0)
    first, other = places(2, port)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(run_together, first, KEY, FACTS, never, quiet, ready(0))
        _connected(port).close()
        with pytest.raises(DistNetworkError):
            TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=1))
        assert run_together(other, KEY, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_a_node_that_meets_the_store_of_another_training_reports_it(port, monkeypatch):
    from torch.distributed import TCPStore

    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    monkeypatch.setattr(meeting, "_HANDSHAKE_SECONDS", 0.5)
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    with pytest.raises(UnavailableError, match="does not have this run's key"):
        run_together(places(2, port)[1], KEY, FACTS, never, quiet, ready(0))
    assert store.num_keys() <= 1  # the store's own
    del store


NOISE = (
    b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"node": 7}\n', b'{"node": "x"}\n', b"\xff\n", b"\n", b"{}\n" * 3,
    b'{"node": 1, "nonce": "", "proof": ""}\n', b'{"node": true, "nonce": 1, "proof": []}\n',
    b'{"node": 1, "facts": {"values": "abc", "nodes": "2"}}\n', b'{"type": "lost", "node": 0}\n',
    b'{"node": 1, "nonce": "%s", "proof": "%s"}\n' % (b"0" * 64, b"0" * 64),
)  # fmt: skip


def test_foreign_peers_change_nothing_and_receive_nothing_but_a_nonce(port):
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(run_together, first, KEY, FACTS, never, quiet, ready(0))
        for noise in NOISE:
            with _connected(port) as peer, peer.makefile("rb") as lines:
                peer.sendall(noise)
                peer.shutdown(socket.SHUT_WR)
                received = lines.read()
            assert set(json.loads(received)) == {"nonce"}
        assert run_together(other, KEY, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_more_foreign_peers_than_the_limit_keep_no_node_out(port, monkeypatch):
    monkeypatch.setattr(meeting, "_UNAUTHENTICATED", 3)
    monkeypatch.setattr(meeting, "_HANDSHAKE_SECONDS", 1.0)
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
        waiting = pool.submit(run_together, first, KEY, FACTS, never, quiet, ready(0))
        for _ in range(9):
            stack.enter_context(_connected(port))
        assert run_together(other, KEY, FACTS, never, quiet, ready(0)) == 0
        assert waiting.result(timeout=15) == 0


def test_a_node_with_another_key_is_not_a_node_of_the_run(port, monkeypatch):
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    first, other = places(2, port)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(run_together, first, KEY, FACTS, never, quiet, ready(0))
        with pytest.raises(UnavailableError, match="does not have this run's key"):
            run_together(other, b"another", FACTS, never, quiet, ready(0))
        with pytest.raises(UnavailableError, match=r"Node\(s\) 1 did not join"):
            waiting.result(timeout=15)


def test_a_false_node_0_learns_nothing_of_a_node(port, monkeypatch):
    """It repeats what a node sends, claims to have a proof, or sends a welcome at once."""
    monkeypatch.setenv("TUNEYARD_MEETING_SECONDS", "3")
    received = []

    def false_node_0(server):
        for answer in (None, b'{"proof": "%s"}\n' % (b"0" * 64), b'{"type": "welcome"}\n'):
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as lines:
                connection.sendall(b'{"nonce": "%s"}\n' % (b"0" * 64))
                hello = lines.readline()
                connection.sendall(answer or hello)
                received.append((hello, lines.readline()))

    with socket.create_server(("127.0.0.1", port)) as server, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(false_node_0, server)
        with pytest.raises(UnavailableError, match="does not have this run's key"):
            run_together(places(2, port)[1], KEY, FACTS, never, quiet, ready(0))
        answering.result(timeout=15)
    assert len(received) == 3
    for hello, more in received:
        assert set(json.loads(hello)) == {"node", "nonce", "proof"}
        assert more == b""


def test_node_0_listens_on_its_own_address_alone():
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
        stack.enter_context(elsewhere._open_port(0))  # another machine's address that forwards to this one


def test_the_port_for_torch_is_open_on_node_0s_own_address(port):
    addresses = []

    def body(met):
        assert met.wait_until_ready(never, quiet)
        if met.place.node == 0:
            addresses.append(met.listener.getsockname())
        return 0

    first, other = (replace(place, own_address="127.0.0.1") for place in places(2, port))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda place: run_together(place, KEY, FACTS, never, quiet, body), (first, other)))
    assert addresses[0][0] == "127.0.0.1"


def test_a_stop_request_ends_the_wait_for_other_nodes(port):
    for place in places(2, port):
        with Meeting(place, KEY, FACTS) as met:
            assert not met.open(lambda: True, quiet)


def test_a_place_is_read_from_the_variables_of_kubernetes(monkeypatch):
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
    with pytest.raises(UsageError, match="not a position among 3 nodes"):
        Place.of(3)
