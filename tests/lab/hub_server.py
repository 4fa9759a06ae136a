"""A real HTTP server that speaks the Hub's API, for tests: `with hub_server() as hub: hub.add_model(...)`.

It implements what huggingface_hub and `datasets` use: a repository at a revision, its tree in pages, information on
paths, and `resolve` with ranges and ETags. Files in LFS redirect to a second server under another origin, as the Hub's
do to its storage. Every request is recorded, and a `Fault` can be set on any file. Use it through `HF_ENDPOINT`, or
with `Hub(endpoint=hub.url)`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from lab.web_servers import web_server

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".gguf", ".h5")
PIECE_BYTES = 65_536

Kind = Literal["models", "datasets"]


@dataclass(frozen=True)
class Fault:
    """A fault of the responses for a file.

    Attributes:
        times: The number of requests that it affects.
        status: Answer with this status and nothing else.
        retry_after: The `Retry-After` of that answer.
        drop_after: Close the connection after this many bytes of the body.
        flip: Flip a bit of the byte at this place.
        serve: Serve these bytes, whose size differs from the declared one.
        ignore_range: Answer a ranged request with the whole file.
        hold_after: Wait after this many bytes of the body until `HubServer.release` is set.
    """

    times: int = 1_000_000
    status: int = 0
    retry_after: str = ""
    drop_after: int = -1
    flip: int = -1
    serve: bytes | None = None
    ignore_range: bool = False
    hold_after: int = -1


@dataclass(frozen=True)
class Seen:
    """A recorded request to one of the two servers."""

    server: Literal["hub", "storage"]
    method: str
    path: str
    range: str
    authorization: str


@dataclass
class Repo:
    """A repository with its commits, of which the newest is `main`, and whether it is gated."""

    kind: Kind
    id: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    main: str = ""
    gated: bool = False


@dataclass
class HubServer:
    """The running server.

    Attributes:
        url: What `HF_ENDPOINT` is set to.
        seen: Every request so far.
        release: Set it to release held responses; set when the server ends.
        holding: Set as soon as a response is held.
        page_size: The number of rows in a page of a tree.
        token: The only valid token.
        faults: By path in the repository.
        api_faults: Faults of the API itself; each request takes the next.
    """

    url: str = ""
    storage_url: str = ""
    repos: dict[tuple[Kind, str], Repo] = field(default_factory=dict[tuple[Kind, str], Repo])
    seen: list[Seen] = field(default_factory=list[Seen])
    release: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    page_size: int = 1000
    token: str = "hf_right"
    faults: dict[str, Fault] = field(default_factory=dict[str, Fault])
    api_faults: list[Fault] = field(default_factory=list[Fault])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_model(self, repo_id: str, files: Mapping[str, bytes], *, gated: bool = False) -> str:
        """Add a model, or a commit to one that becomes its `main`, and return the commit."""
        return self._add("models", repo_id, files, gated=gated)

    def add_dataset(self, repo_id: str, files: Mapping[str, bytes]) -> str:
        """Add a dataset and return its commit."""
        return self._add("datasets", repo_id, files, gated=False)

    def fetched(self, path: str) -> int:
        """Count the GET requests for a file."""
        wanted = "/" + quote(path)
        return sum(
            1 for one in self.seen if one.method == "GET" and "/resolve/" in one.path and one.path.endswith(wanted)
        )

    def _add(self, kind: Kind, repo_id: str, files: Mapping[str, bytes], *, gated: bool) -> str:
        repo = self.repos.setdefault((kind, repo_id), Repo(kind, repo_id))
        seed = repr((repo_id, len(repo.commits), sorted((path, _sha256(body)) for path, body in files.items())))
        commit = hashlib.sha1(seed.encode()).hexdigest()
        repo.commits[commit], repo.main, repo.gated = dict(files), commit, gated
        return commit

    def take_fault(self, path: str) -> Fault | None:
        with self.lock:
            fault = self.faults.get(path)
            if fault is None or fault.times < 1:
                return None
            self.faults[path] = Fault(**{**fault.__dict__, "times": fault.times - 1})
            return fault

    def take_api_fault(self) -> Fault | None:
        with self.lock:
            return self.api_faults.pop(0) if self.api_faults else None


@contextmanager
def hub_server(bind: str = "127.0.0.1", ports: tuple[int, int] = (0, 0), host: str = "") -> Iterator[HubServer]:
    """Run a Hub on this machine, by default on two free ports of 127.0.0.1.

    Args:
        bind: The address to listen on.
        ports: The ports of the Hub and of its storage; 0 for a free one.
        host: The name that clients reach it by, where that is not `bind`.
    """
    hub = HubServer()
    with (
        web_server(_hub_handler(hub), bind=bind, port=ports[0], host=host) as hub.url,
        web_server(_storage_handler(hub), bind=bind, port=ports[1], host=host) as hub.storage_url,
    ):
        try:
            yield hub
        finally:
            hub.release.set()


def git_blob(body: bytes) -> str:
    """Return the git blob id of these bytes."""
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    name: Literal["hub", "storage"]

    def note(self) -> None:
        header = self.headers.get
        seen = Seen(self.name, self.command, self.path, header("Range", ""), header("Authorization", ""))
        with self.hub.lock:
            self.hub.seen.append(seen)

    def answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, document: Any, headers: Mapping[str, str] | None = None) -> None:
        self.answer(200, {"Content-Type": "application/json", **(headers or {})}, json.dumps(document).encode())

    def send_error_code(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self.answer(status, {name: value for name, value in headers.items() if value}, b"{}")

    def send_file(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a file or a range of it, with the fault that is set on it."""
        fault = self.hub.take_fault(path) if self.command == "GET" else None
        if fault and fault.status:
            self.answer(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
            return
        if fault and fault.serve is not None:
            body = fault.serve
        if fault and 0 <= fault.flip < len(body):
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :]
        status, start, end = self._range(len(body), ignore=bool(fault and fault.ignore_range))
        if status == 416:
            self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
            return
        part = body[start:end]
        ranged = {"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"} if status == 206 else {}
        if self.command == "HEAD":
            self.answer(status, {**headers, **ranged, "Content-Length": str(len(part))})
            return
        self.answer_slowly(status, {**headers, **ranged, "Content-Length": str(len(part))}, part, fault)

    def answer_slowly(self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        limits = [limit for limit in (fault.drop_after, fault.hold_after) if limit >= 0] if fault else []
        sent = min([len(body), *limits])
        try:
            for begin in range(0, sent, PIECE_BYTES):
                self.wfile.write(body[begin : min(sent, begin + PIECE_BYTES)])
            if fault and fault.hold_after >= 0:
                self.hub.holding.set()
                self.hub.release.wait()
                self.wfile.write(body[sent:])
                sent = len(body)
        except (BrokenPipeError, ConnectionResetError):
            sent = -1
        if sent < len(body):
            self.close_connection = True

    def _range(self, size: int, *, ignore: bool) -> tuple[int, int, int]:
        text = self.headers.get("Range", "")
        if not text or ignore:
            return 200, 0, size
        first, _, last = text.removeprefix("bytes=").partition("-")
        start = int(first) if first else size - int(last)
        end = min(size, int(last) + 1) if first and last else size
        return (206, start, end) if start < size else (416, 0, 0)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _storage_handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Storage(_Handler):
        def do_GET(self) -> None:
            self.note()
            sha256 = urlsplit(self.path).path.rpartition("/")[2]
            for repo in hub.repos.values():
                for files in repo.commits.values():
                    for path, body in files.items():
                        if _sha256(body) == sha256:
                            self.send_file(path, body, {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})
                            return
            self.answer(404, {})

        do_HEAD = do_GET  # noqa: N815  (http.server looks for this name)

    Storage.hub, Storage.name = hub, "storage"
    return Storage


def _hub_handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class HubHandler(_Handler):
        def do_GET(self) -> None:
            self.note()
            parts = urlsplit(self.path)
            if parts.path.startswith("/api/"):
                self.api(parts.path.removeprefix("/api/"), parse_qs(parts.query))
            elif "/resolve/" in parts.path:
                self.resolve(parts.path)
            else:
                self.send_error_code(404, "", "")

        do_HEAD = do_GET  # noqa: N815  (http.server looks for this name)

        def do_POST(self) -> None:
            self.note()
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            what, _, revision = self.path.removeprefix("/api/").partition("/paths-info/")
            found = self.find(what, unquote(revision))
            if found is None:
                return
            text = body.decode()
            paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            _, files, _ = found
            self.send_json([row for path in paths for row in _rows(files, path, recursive=False, itself=True)])

        def api(self, path: str, query: dict[str, list[str]]) -> None:
            fault = hub.take_api_fault()
            if fault is not None:
                self.answer(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
                return
            if "/tree/" in path:
                what, _, rest = path.partition("/tree/")
                revision, _, folder = rest.partition("/")
                self.tree(what, unquote(revision), unquote(folder), query)
                return
            what, _, revision = path.partition("/revision/")
            found = self.find(what, unquote(revision) or "main")
            if found is None:
                return
            repo, files, commit = found
            siblings = [
                {"rfilename": name, "size": len(body), "blobId": git_blob(body)}
                | ({"lfs": {"sha256": _sha256(body), "size": len(body), "pointerSize": 134}} if _is_lfs(name) else {})
                for name, body in sorted(files.items())
            ]
            facts = {"_id": commit[:24], "id": repo.id, "sha": commit, "private": False, "gated": repo.gated}
            self.send_json({**facts, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

        def tree(self, what: str, revision: str, folder: str, query: dict[str, list[str]]) -> None:
            found = self.find(what, revision)
            if found is None:
                return
            _, files, _ = found
            recursive = query.get("recursive", ["false"])[0].lower() in {"true", "1"}
            rows = _rows(files, folder.strip("/"), recursive=recursive, itself=False)
            start = int(query.get("cursor", ["0"])[0])
            end = start + hub.page_size
            headers: dict[str, str] = {}
            if end < len(rows):
                path = urlsplit(self.path).path
                following = f"{hub.url}{path}?recursive={str(recursive).lower()}&expand=false&cursor={end}"
                headers["Link"] = f'<{following}>; rel="next"'
            self.send_json(rows[start:end], headers)

        def resolve(self, path: str) -> None:
            what, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            what = what.strip("/")
            found = self.find(what if what.startswith("datasets/") else f"models/{what}", unquote(revision))
            if found is None:
                return
            repo, files, commit = found
            name = unquote(name)
            if repo.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.send_error_code(401, "GatedRepo", "Access to this model is restricted.")
            elif name not in files:
                self.send_error_code(404, "EntryNotFound", "Entry not found")
            elif _is_lfs(name):
                body = files[name]
                linked = {"X-Linked-Etag": f'"{_sha256(body)}"', "X-Linked-Size": str(len(body))}
                where = f"{hub.storage_url}/{_sha256(body)}?signature=abc"
                self.answer(302, {"Location": where, "X-Repo-Commit": commit, "ETag": f'"{commit}"', **linked})
            else:
                etag = {"X-Repo-Commit": commit, "ETag": f'"{git_blob(files[name])}"', "Accept-Ranges": "bytes"}
                self.send_file(name, files[name], etag)

        def find(self, what: str, revision: str) -> tuple[Repo, dict[str, bytes], str] | None:
            authorization = self.headers.get("Authorization")
            if authorization and authorization != f"Bearer {hub.token}":
                self.send_error_code(401, "", "Invalid credentials in Authorization header")
                return None
            kind, _, repo_id = what.partition("/")
            repo = hub.repos.get((kind, repo_id))  # pyright: ignore[reportArgumentType]
            if repo is None:
                self.send_error_code(401 if not authorization else 404, "RepoNotFound", "Repository not found")
                return None
            commit = repo.main if revision in {"main", "refs/heads/main"} else revision
            if commit not in repo.commits:
                self.send_error_code(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return None
            return repo, repo.commits[commit], commit

    HubHandler.hub, HubHandler.name = hub, "hub"
    return HubHandler


def _rows(files: Mapping[str, bytes], folder: str, *, recursive: bool, itself: bool) -> list[dict[str, Any]]:
    """Return the rows of a tree below a folder, or of a path itself."""
    rows: dict[str, dict[str, Any]] = {}
    for path, body in sorted(files.items()):
        if itself:
            if path == folder:
                rows[path] = _file_row(path, body)
            elif path.startswith(f"{folder}/"):
                rows[folder] = {"type": "directory", "path": folder, "oid": _sha256(folder.encode())[:40], "size": 0}
            continue
        if folder and not path.startswith(f"{folder}/"):
            continue
        parts = path.removeprefix(f"{folder}/" if folder else "").split("/")
        for depth in range(1, len(parts)):
            parent = "/".join([*([folder] if folder else []), *parts[:depth]])
            if recursive or depth == 1:
                rows[parent] = {"type": "directory", "path": parent, "oid": _sha256(parent.encode())[:40], "size": 0}
        if recursive or len(parts) == 1:
            rows[path] = _file_row(path, body)
    return list(rows.values())


def _file_row(path: str, body: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": git_blob(body)}
    if _is_lfs(path):
        row["oid"] = git_blob(f"version https://git-lfs.github.com/spec/v1\n{_sha256(body)}".encode())
        row["lfs"] = {"oid": _sha256(body), "size": len(body), "pointerSize": 134}
    return row
