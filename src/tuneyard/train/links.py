"""A connection between two nodes: both sides authenticate before any message, and every message is signed.

Anyone who reaches the port may connect; only a peer that has the run's key is served. Each side proves that it has the
key over a nonce of the other side (HMAC-SHA256, RFC 2104), so a recorded proof is useless. The nonces also give the key
of the connection, which signs every message with its direction and its number: a message that is changed, repeated or
injected ends the connection. Messages are JSON and not secret: they are exit codes and hashes.

    node 0 → node   {"nonce"}
    node → node 0   {"node", "nonce", "proof"}
    node 0 → node   {"proof"}
    then one line per message: signature, a space, one JSON object
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tuneyard.errors import InvalidValuesError, Problem

KEY = "TUNEYARD_NODES_KEY"
"""The variable with the secret that the nodes share; without it, the store's secret key is used."""

_KEY_CHARACTERS = 16
_LINE_BYTES = 65536
_NODE_0, _OTHER = b"node 0", b"node"


def key_of_run(run: str) -> bytes:
    """Derive the key of a run from a secret that its nodes share.

    Args:
        run: Where the run's results go: each run has its own key.

    Raises:
        InvalidValuesError: The nodes share no secret, or one that is short enough to be guessed.
    """
    given = os.environ.get(KEY) or ""
    secret = given or os.environ.get("AWS_SECRET_ACCESS_KEY") or ""
    if not secret or 0 < len(given) < _KEY_CHARACTERS:
        what = (
            f"has fewer than {_KEY_CHARACTERS} characters" if given else "is missing, and the store has no secret key"
        )
        raise InvalidValuesError(
            f"Several nodes need a shared secret to authenticate each other; it {what}.",
            hint=f"Use --set nodesSecret.name=SECRET in a cluster; elsewhere export the same {KEY} on all nodes.",
            problems=[Problem("nodesSecret", what, allowed=f"a Secret whose key holds {_KEY_CHARACTERS} or more")],
        )
    # Slow on purpose: a store's secret key may be short, and whoever records a proof could try to guess it.
    return hashlib.scrypt(secret.encode(), salt=f"tuneyard nodes {run}".encode(), n=2**14, r=8, p=1, dklen=32)


class Link:
    """One connection that carries JSON objects; a lost peer raises nothing, `receive` returns an empty object.

    Args:
        connection: The open connection.
        timeout_seconds: How long `receive` waits.

    Attributes:
        connection: The open connection.
        reader: The thread that receives from it, if there is one.
    """

    def __init__(self, connection: socket.socket, timeout_seconds: float) -> None:
        self.connection = connection
        self.reader: threading.Thread | None = None
        self._key = b""
        self._sent = self._received = 0
        self._broken = False
        self._sending = threading.Lock()
        self._own = self._other = b""
        self.set_timeout(timeout_seconds)
        self._lines = connection.makefile("rb")

    def set_timeout(self, seconds: float) -> None:
        """Set how long `receive` waits."""
        self.connection.settimeout(seconds)

    def admit(self, key: bytes, nodes: int) -> int:
        """Authenticate another node, as node 0.

        Args:
            key: The run's key.
            nodes: The number of nodes.

        Returns:
            The index of the node; 0 if the peer is not a node of this run.
        """
        mine = secrets.token_hex(32)
        self._send_unsigned({"nonce": mine})
        hello = self._receive_unsigned()
        node, theirs = hello.get("node"), hello.get("nonce")
        if not isinstance(node, int) or not 0 < node < nodes or not _is_nonce(theirs):
            return 0
        nonces = (str(node).encode(), mine.encode(), str(theirs).encode())
        if not _is_signature(hello.get("proof"), _sign(key, _OTHER, *nonces)):
            return 0
        self._send_unsigned({"proof": _sign(key, _NODE_0, *nonces).hex()})
        self._begin(key, _NODE_0, _OTHER, nonces)
        return node

    def prove(self, key: bytes, node: int) -> bool:
        """Authenticate this node to node 0, and node 0 to this node.

        Args:
            key: The run's key.
            node: The index of this node.

        Returns:
            Whether the peer is node 0 of this run.
        """
        theirs, mine = self._receive_unsigned().get("nonce"), secrets.token_hex(32)
        if not _is_nonce(theirs):
            return False
        nonces = (str(node).encode(), str(theirs).encode(), mine.encode())
        self._send_unsigned({"node": node, "nonce": mine, "proof": _sign(key, _OTHER, *nonces).hex()})
        if not _is_signature(self._receive_unsigned().get("proof"), _sign(key, _NODE_0, *nonces)):
            return False
        self._begin(key, _OTHER, _NODE_0, nonces)
        return True

    def send(self, message: Mapping[str, Any]) -> None:
        """Send an object; whether the peer is still there is up to `receive`."""
        assert self._key, "no message is sent before both sides are authenticated"
        with self._sending:
            body = json.dumps(message).encode()
            signature = _sign(self._key, self._own, str(self._sent).encode(), body)
            self._sent += 1
            with suppress(OSError):
                self.connection.sendall(signature.hex().encode() + b" " + body + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next object; empty if the peer is gone or silent, or if the message is not the peer's next."""
        with suppress(OSError, ValueError, RecursionError):
            signature, _, body = self._lines.readline(_LINE_BYTES).rstrip(b"\n").partition(b" ")
            expected = _sign(self._key, self._other, str(self._received).encode(), body)
            self._received += 1
            self._broken = self._broken or not self._key or not _is_signature(signature.decode("ascii"), expected)
            if not self._broken:
                message = json.loads(body)
                return message if isinstance(message, dict) else {}
        return {}

    def end_sending(self) -> None:
        """Let the peer know that no more messages follow."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def end_receiving(self) -> None:
        """Close the reading side, which holds the connection's descriptor; only the thread that receives may."""
        with suppress(OSError):
            self._lines.close()

    def close(self) -> None:
        """Close the connection, whichever thread receives from it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        if self.reader is None:
            self.end_receiving()

    def _begin(self, key: bytes, own: bytes, other: bytes, nonces: tuple[bytes, ...]) -> None:
        self._key, self._own, self._other = _sign(key, b"connection", *nonces), own, other

    def _send_unsigned(self, message: Mapping[str, Any]) -> None:
        with suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")

    def _receive_unsigned(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            message = json.loads(self._lines.readline(_LINE_BYTES))
            if isinstance(message, dict):
                return message
        return {}


def listen(address: str, port: int) -> socket.socket:
    """Open a port on one address of this machine, or on all of them if none is given.

    Args:
        address: An IP address of this machine or a name that resolves to one; empty for all addresses.
        port: The port; 0 for any that is free.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """
    if address:
        family, _, _, _, local = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(local[0]), port), family=family)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _sign(key: bytes, *parts: bytes) -> bytes:
    """Sign byte strings; no other sequence has the same signature, wherever one ends and the next begins."""
    lengths = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(key, lengths, hashlib.sha256).digest()


def _is_signature(given: Any, expected: bytes) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.hex().encode())


def _is_nonce(given: Any) -> bool:
    return isinstance(given, str) and len(given) == 64
