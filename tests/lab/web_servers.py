"""HTTP servers on this machine that answer with a handler of the test's."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class QuietServer(ThreadingHTTPServer):
    """A server that ignores clients which close the connection early."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing."""


@contextmanager
def web_server(
    handler: type[BaseHTTPRequestHandler], *, bind: str = "127.0.0.1", port: int = 0, host: str = ""
) -> Generator[str]:
    """Serve requests with a handler for the duration of the `with` block.

    Args:
        handler: Handles each request, in a thread of its own.
        bind: The address to listen on.
        port: The port to listen on; 0 for a free one.
        host: The name that clients reach the server by, where that is not `bind`.

    Yields:
        The server's URL.
    """
    server = QuietServer((bind, port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://{host or bind}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
