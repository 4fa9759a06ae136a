"""A hostile Hub: it serves one model, and sends a single false response per case; all others are correct.

`with hostile_hub() as hub: hub.use(case)`; `hostile_cases` has the cases. A plain socket server, so that it can send
what no HTTP library would. It counts the bytes sent, and ends an endless response when the client disconnects.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from lab.hub_server import git_blob

_HEADER = b'{"a.weight":{"dtype":"U8","shape":[65400],"data_offsets":[0,65400]}}'.ljust(128)
WEIGHTS = len(_HEADER).to_bytes(8, "little") + _HEADER
WEIGHTS += bytes((7 * number + number // 256) % 256 for number in range(65_536 - len(WEIGHTS)))
FILES = {
    "config.json": b'{"model_type": "llama", "hidden_size": 64}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"version": "1.0", "model": {"type": "BPE", "vocab": "'
    + WEIGHTS[:2_000].hex().encode()
    + b'"}}',
}
LFS = ("model.safetensors",)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40

Pieces = Iterable[bytes]
Answers = Callable[["Request"], "Pieces | None"]


@dataclass(frozen=True)
class Request:
    """A request of the client.

    Attributes:
        stage: `facts`, `tree`, `file` (on the Hub) or `storage`.
        path: The file, in the last two.
        start: Where the range begins.
        number: How many requests for this stage and path came before it.
        query: The query of its URL.
        url: The Hub's URL as the client knows it.
    """

    stage: str
    path: str = ""
    start: int = 0
    number: int = 0
    query: str = ""
    url: str = ""
    storage: str = ""
    authorization: str = ""

    @property
    def body(self) -> bytes:
        return FILES[self.path]


@dataclass(frozen=True)
class Case:
    """One false response.

    Attributes:
        name: A description.
        answer: Returns the pieces of a whole HTTP response, or None for the correct one.
        revision: The `modelRevision` to request.
        public: Whether the client takes this Hub to be on the internet.
        codes: The exit codes that a delivery may end with.
        sentence: A part of the error message.
    """

    name: str
    answer: Answers
    revision: str = ""
    public: bool = False
    codes: tuple[int, ...] = (3, 4, 5, 7, 8)
    sentence: str = ""


@dataclass
class HostileHub:
    """The running server.

    Attributes:
        port: Its port on the loopback address.
        sent: Bytes sent for the case in use.
        requests: Every request for the case in use.
    """

    port: int = 0
    case: Case = field(default_factory=lambda: Case("honest", lambda request: None))
    sent: int = 0
    requests: list[Request] = field(default_factory=list[Request])
    ending: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, case: Case) -> None:
        with self.lock:
            self.case, self.sent, self.requests = case, 0, []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


def reply(status: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Write a response, with a Content-Length where the headers have none."""
    sized = {name.lower() for name in headers} & {"content-length", "transfer-encoding"}
    every = {**headers, **({} if sized else {"Content-Length": str(len(body))}), "Connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in every.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def json_reply(document: Any, **headers: str) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return reply("200 OK", {"Content-Type": "application/json", **headers}, body)


def facts() -> dict[str, Any]:
    return {"_id": COMMIT[:24], "id": "org/tiny", "sha": COMMIT, "private": False, "gated": False, "siblings": []}


def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path, body in FILES.items():
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": git_blob(body)}
        if path in LFS:
            row["oid"] = git_blob(b"a pointer")
            row["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
        found.append(row)
    return found


def file_reply(request: Request, body: bytes | None = None, **headers: str) -> bytes:
    """Respond with a file, from the start of the range."""
    body = request.body if body is None else body
    etag = hashlib.sha256(request.body).hexdigest() if request.path in LFS else git_blob(request.body)
    every = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **headers}
    if request.start:
        part = body[request.start :]
        every = {"Content-Range": f"bytes {request.start}-{len(body) - 1}/{len(body)}", **every}
        return reply("206 Partial Content", every, part)
    return reply("200 OK", every, body)


def honest(request: Request) -> bytes:
    """Return the correct response."""
    if request.stage == "facts":
        return json_reply(facts())
    if request.stage == "tree":
        return json_reply(rows())
    if request.path not in FILES:
        return reply("404 Not Found", {"X-Error-Code": "EntryNotFound"})
    if request.stage == "file" and request.path in LFS:
        sha256 = hashlib.sha256(request.body).hexdigest()
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(request.body)), "X-Repo-Commit": COMMIT}
        return reply("302 Found", {"Location": f"{request.storage}/storage/{request.path}", **linked})
    return file_reply(request, **({"X-Repo-Commit": COMMIT} if request.stage == "file" else {}))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextlib.contextmanager
def hostile_hub() -> Iterator[HostileHub]:
    """Run the Hub on a free port of 127.0.0.1; clients call it `localhost`."""
    hub = HostileHub()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            connection.settimeout(30)
            with contextlib.suppress(OSError):
                request = _read(connection, hub)
                if request is None:
                    return
                pieces = hub.case.answer(request)
                for piece in (honest(request),) if pieces is None else pieces:
                    connection.sendall(piece)
                    hub.sent += len(piece)
                    if hub.ending.is_set():
                        return
                # so that what was sent arrives though the client still sends
                connection.shutdown(socket.SHUT_WR)

    server = _Server(("127.0.0.1", 0), Handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _read(connection: socket.socket, hub: HostileHub) -> Request | None:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = connection.recv(65_536)
        if not chunk:
            return None
        head += chunk
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    target = urlsplit(lines[0].split(" ")[1])
    start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
    stage, path = _stage(target.path)
    with hub.lock:
        number = sum(1 for one in hub.requests if (one.stage, one.path) == (stage, path))
        request = Request(stage, path, start, number, target.query, hub.url, hub.url, headers.get("authorization", ""))
        hub.requests.append(request)
    return request


def _stage(path: str) -> tuple[str, str]:
    if path.startswith("/storage/"):
        return "storage", unquote(path.removeprefix("/storage/"))
    if "/resolve/" in path:
        return "file", unquote(path.partition("/resolve/")[2].partition("/")[2])
    return ("tree", "") if "/tree/" in path else ("facts", "")
