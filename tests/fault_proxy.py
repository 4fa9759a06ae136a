"""A small HTTP proxy before a real S3 server that breaks chosen requests the way networks do.

It passes requests on unchanged, `Host` included, so that their signatures hold. A plan is asked about every request.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["none", "lost answer", "half the body", "unavailable"]
Plan = Callable[[str, str], Fault]
"""From method and path to what goes wrong; called once for each request, in the order they come."""


@contextmanager
def fault_proxy(upstream: str, plan: Plan) -> Iterator[str]:
    """Run a proxy before the server at `upstream`; give the proxy's URL."""
    to = urlsplit(upstream)
    lock = threading.Lock()

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
            connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=30)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
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

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that hangs up is no error of ours

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
