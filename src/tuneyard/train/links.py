"""A connection between two nodes: proven on both sides before anything is said, and each line of it signed.

Whoever reaches the port may connect; only who has the run's key is talked to. Both prove it over numbers that the other
one chose (HMAC-SHA256, RFC 2104), so nothing that was overheard is a proof. From the same numbers comes the key of this
connection, which signs every line with its direction and its place: a line that was changed, repeated or put in ends
the connection. Lines are JSON and not secret: they are exit codes and hashes.

    node 0 → node   {"nonce"}
    node → node 0   {"node", "nonce", "proof"}
    node 0 → node   {"proof"}
    then lines of   signature, a space, one JSON object
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
"""Names the key that the nodes share; without it one is made of the store's secret key."""

_KEY_CHARACTERS = 16
_LINE_BYTES = 65536
_NODE_0, _OTHER = b"node 0", b"node"


def key_of_run(run: str) -> bytes:
    """Make the key of a run from what all of its nodes know and nobody else.

    Args:
        run: Where the run's results go: each run has a key of its own.

    Raises:
        InvalidValuesError: The nodes share no secret, or were given one that could be guessed.
    """
    given = os.environ.get(KEY) or ""
    secret = given or os.environ.get("AWS_SECRET_ACCESS_KEY") or ""
    if not secret or 0 < len(given) < _KEY_CHARACTERS:
        what = (
            f"has fewer than {_KEY_CHARACTERS} characters" if given else "is missing, and the store has no secret key"
        )
        raise InvalidValuesError(
            f"Several nodes need a secret that they share, to know each other by; it {what}.",
            hint=f"--set nodesSecret.name=SECRET names one of the cluster's; elsewhere export one {KEY} on all nodes",
            problems=[Problem("nodesSecret", what, allowed=f"a Secret whose key holds {_KEY_CHARACTERS} or more")],
        )
    # Slow to make: a store's secret key may be short, and a stranger who sees a proof could guess on.
    return hashlib.scrypt(secret.encode(), salt=f"tuneyard nodes {run}".encode(), n=2**14, r=8, p=1, dklen=32)


class Link:
    """One connection: objects as lines, and no exception where the other side is gone.

    Args:
        connection: The open connection.
        silence: How many seconds a read waits.
    """

    def __init__(self, connection: socket.socket, silence: float) -> None:
        self.connection = connection
        self.reader: threading.Thread | None = None
        self._key = b""
        self._sent = self._received = 0
        self._broken = False
        self._saying = threading.Lock()
        self._own = self._other = b""
        self.silence(silence)
        self._lines = connection.makefile("rb")

    def silence(self, seconds: float) -> None:
        """Set how long `read` waits."""
        self.connection.settimeout(seconds)

    def admit(self, key: bytes, nodes: int) -> int:
        """Let another node in, as node 0.

        Args:
            key: The run's key.
            nodes: How many nodes there are.

        Returns:
            Which node it is; 0 where it is none of this run's.
        """
        mine = secrets.token_hex(32)
        self._send({"nonce": mine})
        hello = self._receive()
        node, theirs = hello.get("node"), hello.get("nonce")
        if not isinstance(node, int) or not 0 < node < nodes or not _is_nonce(theirs):
            return 0
        words = (str(node).encode(), mine.encode(), str(theirs).encode())
        if not _is_signature(hello.get("proof"), _sign(key, _OTHER, *words)):
            return 0
        self._send({"proof": _sign(key, _NODE_0, *words).hex()})
        self._begin(key, _NODE_0, _OTHER, words)
        return node

    def prove(self, key: bytes, node: int) -> bool:
        """Ask node 0 to be let in.

        Args:
            key: The run's key.
            node: Which node this is.

        Returns:
            Whether the other side is node 0 of this run.
        """
        theirs, mine = self._receive().get("nonce"), secrets.token_hex(32)
        if not _is_nonce(theirs):
            return False
        words = (str(node).encode(), str(theirs).encode(), mine.encode())
        self._send({"node": node, "nonce": mine, "proof": _sign(key, _OTHER, *words).hex()})
        if not _is_signature(self._receive().get("proof"), _sign(key, _NODE_0, *words)):
            return False
        self._begin(key, _OTHER, _NODE_0, words)
        return True

    def say(self, words: Mapping[str, Any]) -> None:
        """Send an object; that the other side is gone is for `read` to find."""
        assert self._key, "nothing is said before both have proven who they are"
        with self._saying:
            body = json.dumps(words).encode()
            signature = _sign(self._key, self._own, str(self._sent).encode(), body)
            self._sent += 1
            with suppress(OSError):
                self.connection.sendall(signature.hex().encode() + b" " + body + b"\n")

    def read(self) -> dict[str, Any]:
        """Read the next object; empty where the other side is gone or silent, or the line is not its own."""
        with suppress(OSError, ValueError, RecursionError):
            signature, _, body = self._lines.readline(_LINE_BYTES).rstrip(b"\n").partition(b" ")
            expected = _sign(self._key, self._other, str(self._received).encode(), body)
            self._received += 1
            self._broken = self._broken or not self._key or not _is_signature(signature.decode("ascii"), expected)
            if not self._broken:
                words = json.loads(body)
                return words if isinstance(words, dict) else {}
        return {}

    def finish(self) -> None:
        """Say that nothing more will be said."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)

    def read_no_more(self) -> None:
        """Let go of the reading side, which keeps the connection's descriptor; only who reads may."""
        with suppress(OSError):
            self._lines.close()

    def close(self) -> None:
        """End the connection, whoever reads from it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.connection.close()
        if self.reader is None:
            self.read_no_more()

    def _begin(self, key: bytes, own: bytes, other: bytes, words: tuple[bytes, ...]) -> None:
        self._key, self._own, self._other = _sign(key, b"connection", *words), own, other

    def _send(self, words: Mapping[str, Any]) -> None:
        with suppress(OSError):
            self.connection.sendall(json.dumps(words).encode() + b"\n")

    def _receive(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError):
            words = json.loads(self._lines.readline(_LINE_BYTES))
            if isinstance(words, dict):
                return words
        return {}


def listen(address: str, port: int) -> socket.socket:
    """Open a port at one address of this machine alone, or at all of them where none is known.

    Args:
        address: An IP address or a name that leads to this machine; empty for all addresses.
        port: The port; 0 for any that is free.

    Raises:
        OSError: The port is taken, or the address is not this machine's.
    """
    if address:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(place[0]), port), family=family)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _sign(key: bytes, *words: bytes) -> bytes:
    """Sign words so that no others have the same signature, wherever one ends and the next begins."""
    lengths = b"".join(len(word).to_bytes(8, "big") + word for word in words)
    return hmac.new(key, lengths, hashlib.sha256).digest()


def _is_signature(given: Any, expected: bytes) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.hex().encode())


def _is_nonce(given: Any) -> bool:
    return isinstance(given, str) and len(given) == 64
