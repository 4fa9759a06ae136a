"""A small HTTP proxy in front of a real S3 server that breaks chosen requests the way networks do.

It passes requests on unchanged, `Host` included, so that their signatures hold. A plan is asked about every request.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "lost answer", "half the body", "unavailable", "reset", "stall", "revoked"]
Plan = Callable[[str, str], Fault]
"""From method and path to what goes wrong; called once for each request, in the order they come."""


def _of_unknown_key(authorization: str) -> str:
    """Put a key that the server does not know (any more) into a signature's header."""
    return re.sub(r"Credential=[^/]+/", "Credential=revoked/", authorization)


def bad_weather(seed: int, *, shares: Mapping[Fault, float]) -> Plan:
    """Make a plan that breaks shares of all requests, at random and the same for the same seed.

    Args:
        seed: Of the choice.
        shares: Of each fault, between 0 and 1.
    """
    chance = random.Random(seed)  # noqa: S311 - faults, no secrets
    faults: list[Fault] = [*shares, "none"]
    weights = [*shares.values(), 1 - sum(shares.values())]

    def plan(method: str, path: str) -> Fault:
        del method, path
        return chance.choices(faults, weights)[0]

    return plan


@contextmanager
def fault_proxy(
    upstream: str, plan: Plan, *, stall_seconds: float = 2.0, ca_bundle: str | None = None
) -> Generator[str]:
    """Run a proxy in front of a server; give the proxy's URL.

    Args:
        upstream: The server's URL.
        plan: Says what goes wrong with each request.
        stall_seconds: How long a stalled request waits.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's.
    """
    to = urlsplit(upstream)
    lock = threading.Lock()
    context = ssl.create_default_context() if to.scheme == "https" else None
    if context and ca_bundle:
        context.load_verify_locations(ca_bundle)

    def connect() -> http.client.HTTPConnection:
        host = to.hostname or ""
        if context:
            return http.client.HTTPSConnection(host, to.port, timeout=30, context=context)
        return http.client.HTTPConnection(host, to.port, timeout=30)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                fault = plan(self.command, self.path)
            if fault == "unavailable":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "reset":
                at_once = struct.pack("ii", 1, 0)  # closed with RST, not with FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
                self.close_connection = True
                return
            if fault == "stall":
                time.sleep(stall_seconds)
            connection = connect()
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                revoked = fault == "revoked" and name.lower() == "authorization"
                connection.putheader(name, _of_unknown_key(value) if revoked else value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            received = answer.read()
            connection.close()
            if fault == "lost answer":
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "connection", "content-length", "date", "server"}:
                    self.send_header(name, value)
            size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(received))
            self.send_header("Content-Length", size or "0")
            self.end_headers()
            if fault == "half the body":
                self.wfile.write(received[: len(received) // 2])
                self.close_connection = True
                return
            self.wfile.write(received)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with web_server(Handler) as url:
        yield url


@contextmanager
def web_server(handler: type[BaseHTTPRequestHandler]) -> Generator[str]:
    """Answer with a handler on a free port of this machine until the block ends; give the server's URL."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is no error of ours

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
