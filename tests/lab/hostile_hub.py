"""A Hub that lies: for each case one model, of which a single answer is hostile and all others are right.

`with hostile_hub() as hub: hub.use(case)`; the cases are in `hostile_cases`. It is a plain socket server, so that it
can send what no HTTP library would. What it sends is counted, and endless answers end when the client has gone.
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
Answers = Callable[["Asked"], "Pieces | None"]


@dataclass(frozen=True)
class Asked:
    """What the client asked.

    Attributes:
        stage: `facts`, `tree`, `file` (on the Hub) or `storage`.
        path: The file, in the last two.
        start: Where the range begins.
        number: The how manyeth request of this stage and path it is, from 0.
        query: The address's query.
        url: The Hub's own address, as the client knows it.
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
    """One lie.

    Attributes:
        name: What it is.
        answer: Gives the pieces of a whole HTTP answer, or None for the right one.
        revision: The `modelRevision` to ask for.
        public: Whether the client takes this Hub to be on the internet.
        codes: The exit codes that it may end with.
        sentence: What the error has to say.
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
        asked: Every request of it.
    """

    port: int = 0
    case: Case = field(default_factory=lambda: Case("honest", lambda asked: None))
    sent: int = 0
    asked: list[Asked] = field(default_factory=list[Asked])
    ending: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def use(self, case: Case) -> None:
        with self.lock:
            self.case, self.sent, self.asked = case, 0, []

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"


def reply(status: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Write an answer; a length is added where the headers have none."""
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


def file_reply(asked: Asked, body: bytes | None = None, **headers: str) -> bytes:
    """Answer with a file, from where a range begins."""
    body = asked.body if body is None else body
    etag = hashlib.sha256(asked.body).hexdigest() if asked.path in LFS else git_blob(asked.body)
    every = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes", **headers}
    if asked.start:
        part = body[asked.start :]
        every = {"Content-Range": f"bytes {asked.start}-{len(body) - 1}/{len(body)}", **every}
        return reply("206 Partial Content", every, part)
    return reply("200 OK", every, body)


def honest(asked: Asked) -> bytes:
    """Give the right answer."""
    if asked.stage == "facts":
        return json_reply(facts())
    if asked.stage == "tree":
        return json_reply(rows())
    if asked.path not in FILES:
        return reply("404 Not Found", {"X-Error-Code": "EntryNotFound"})
    if asked.stage == "file" and asked.path in LFS:
        sha256 = hashlib.sha256(asked.body).hexdigest()
        linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(asked.body)), "X-Repo-Commit": COMMIT}
        return reply("302 Found", {"Location": f"{asked.storage}/storage/{asked.path}", **linked})
    return file_reply(asked, **({"X-Repo-Commit": COMMIT} if asked.stage == "file" else {}))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@contextlib.contextmanager
def hostile_hub() -> Iterator[HostileHub]:
    """Run it on a free port of 127.0.0.1; `localhost` is its name."""
    hub = HostileHub()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection: socket.socket = self.request
            connection.settimeout(30)
            with contextlib.suppress(OSError):
                asked = _read(connection, hub)
                if asked is None:
                    return
                pieces = hub.case.answer(asked)
                for piece in (honest(asked),) if pieces is None else pieces:
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


def _read(connection: socket.socket, hub: HostileHub) -> Asked | None:
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
        number = sum(1 for one in hub.asked if (one.stage, one.path) == (stage, path))
        asked = Asked(stage, path, start, number, target.query, hub.url, hub.url, headers.get("authorization", ""))
        hub.asked.append(asked)
    return asked


def _stage(path: str) -> tuple[str, str]:
    if path.startswith("/storage/"):
        return "storage", unquote(path.removeprefix("/storage/"))
    if "/resolve/" in path:
        return "file", unquote(path.partition("/resolve/")[2].partition("/")[2])
    return ("tree", "") if "/tree/" in path else ("facts", "")
