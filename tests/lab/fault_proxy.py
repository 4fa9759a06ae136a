"""An HTTP proxy in front of a real S3 server that injects network faults into chosen requests.

Requests are forwarded unchanged, `Host` included, so that their signatures stay valid.
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
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import urlsplit

from lab.web_servers import web_server

Fault = Literal["none", "lost answer", "half the body", "unavailable", "reset", "stall", "revoked"]
_UPSTREAM_SECONDS = 120
Plan = Callable[[str, str], Fault]
"""Maps a request's method and path to a fault; called once per request, in the order of arrival."""


def _of_unknown_key(authorization: str) -> str:
    """Replace the access key in a signature's header by one that the server does not know."""
    return re.sub(r"Credential=[^/]+/", "Credential=revoked/", authorization)


def random_faults(seed: int, *, rates: Mapping[Fault, float]) -> Plan:
    """Make a plan that injects faults at random; the same seed gives the same sequence.

    Args:
        seed: Seeds the choice.
        rates: The probability of each fault, between 0 and 1.
    """
    rng = random.Random(seed)
    faults: list[Fault] = [*rates, "none"]
    weights = [*rates.values(), 1 - sum(rates.values())]

    def plan(method: str, path: str) -> Fault:
        del method, path
        return rng.choices(faults, weights)[0]

    return plan


@contextmanager
def fault_proxy(
    upstream: str, plan: Plan, *, stall_seconds: float = 2.0, ca_bundle: str | None = None
) -> Generator[str]:
    """Run a proxy in front of a server for the duration of the `with` block.

    Args:
        upstream: The server's URL.
        plan: Chooses the fault of each request.
        stall_seconds: How long a stalled request waits.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's.

    Yields:
        The proxy's URL.
    """
    to = urlsplit(upstream)
    lock = threading.Lock()
    context = ssl.create_default_context() if to.scheme == "https" else None
    if context and ca_bundle:
        context.load_verify_locations(ca_bundle)

    def connect() -> http.client.HTTPConnection:
        host = to.hostname or ""
        if context:
            return http.client.HTTPSConnection(host, to.port, timeout=_UPSTREAM_SECONDS, context=context)
        return http.client.HTTPConnection(host, to.port, timeout=_UPSTREAM_SECONDS)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                fault = plan(self.command, self.path)
            if fault == "unavailable":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "reset":
                no_linger = struct.pack("ii", 1, 0)  # close with RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
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

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with web_server(Handler) as url:
        yield url
