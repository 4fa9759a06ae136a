"""An S3 server in memory, over real HTTP, with chosen flaws that a probe has to detect.

It implements the part of S3 that Tuneyard uses and checks no signature. Without flaws it is correct; each flaw breaks
one guarantee.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from html import unescape
from http.server import BaseHTTPRequestHandler
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from lab.web_servers import web_server

Flaw = Literal[
    "racing writes",
    "ignores If-None-Match",
    "ignores If-Match",
    "accepts wrong checksums",
    "stale listing",
    "stale listing after delete",
    "unsorted listing",
    "truncated pages",
    "keeps aborted uploads",
    "stale reads",
    "ignores ranges",
]

_PAGE = 1000


@dataclass
class _State:
    flaws: frozenset[str]
    objects: dict[str, bytes] = field(default_factory=dict)
    before: dict[str, bytes] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


@contextmanager
def racy_s3(*flaws: Flaw) -> Generator[tuple[str, dict[str, bytes]]]:
    """Run the stand-in; return its URL and the objects in it, by `bucket/path`.

    Args:
        flaws: Which promises it breaks.
    """
    state = _State(frozenset(flaws))

    class Handler(_Handler):
        kept = state

    with web_server(Handler) as url:
        yield url, state.objects
        assert not state.uploads or "keeps aborted uploads" in flaws, "an upload was left behind"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "racy-s3"
    sys_version = ""
    kept: _State

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY: small responses would wait for one another

    def log_message(self, format: str, *args: object) -> None:
        pass

    def has(self, flaw: Flaw) -> bool:
        return flaw in self.kept.flaws

    def _read(self) -> tuple[str, dict[str, str], bytes]:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return unquote(parts.path).lstrip("/"), query, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def do_PUT(self) -> None:
        key, query, body = self._read()
        if not self.has("accepts wrong checksums") and self._wrong_checksum(body):
            self._refuse(400, "BadDigest")
            return
        if "uploadId" in query:
            upload = self.kept.uploads.get(query["uploadId"])
            if upload is None:
                self._refuse(404, "NoSuchUpload")
                return
            upload[1][int(query["partNumber"])] = body
            self._answer(200, ETag=_etag(body))
            return
        if self.has("racing writes"):
            allowed = self._may_write(key)
            if self.headers.get("If-None-Match") or self.headers.get("If-Match"):
                time.sleep(0.005)  # the gap between check and write
            self._write(key, body, allowed=allowed)
            return
        with self.kept.lock:
            self._write(key, body, allowed=self._may_write(key))

    def _write(self, key: str, body: bytes, *, allowed: bool) -> None:
        if not allowed:
            self._refuse(412, "PreconditionFailed")
            return
        state = self.kept
        state.before[key] = state.objects.get(key, body)
        state.objects[key] = body
        state.written[key] = time.monotonic()
        self._answer(200, ETag=_etag(body))

    def _may_write(self, key: str) -> bool:
        there = self.kept.objects.get(key)
        if self.headers.get("If-None-Match") and not self.has("ignores If-None-Match"):
            return there is None
        wanted = self.headers.get("If-Match")
        if wanted and not self.has("ignores If-Match"):
            return there is not None and _etag(there).strip('"') == wanted.strip('"')
        return True

    def _wrong_checksum(self, body: bytes) -> bool:
        sha256, md5 = hashlib.sha256(body).digest(), hashlib.md5(body, usedforsecurity=False).digest()
        right = {
            "x-amz-checksum-sha256": base64.b64encode(sha256).decode(),
            "content-md5": base64.b64encode(md5).decode(),
            "x-amz-content-sha256": sha256.hex(),
        }
        return any(self.headers.get(name, value) != value for name, value in right.items())

    def do_POST(self) -> None:
        key, query, body = self._read()
        state = self.kept
        if "delete" in query:
            bucket = key.rstrip("/")
            keys = _between(body.decode(), "Key")
            for found in keys:
                self._remove(f"{bucket}/{found}")
            deleted = "".join(f"<Deleted><Key>{escape(found)}</Key></Deleted>" for found in keys)
            self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        elif "uploads" in query:
            upload = secrets.token_hex(8)
            state.uploads[upload] = (key, {})
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            self._answer(200, text.encode())
        elif query.get("uploadId") in state.uploads:
            _, parts = state.uploads.pop(query["uploadId"])
            whole = b"".join(parts[number] for number in sorted(parts))
            state.before[key] = state.objects.get(key, whole)
            state.objects[key] = whole
            etag = f"<ETag>{escape(_etag(whole))}</ETag>"
            self._answer(200, f"<CompleteMultipartUploadResult>{etag}</CompleteMultipartUploadResult>".encode())
        else:
            self._refuse(404, "NoSuchUpload")

    def do_DELETE(self) -> None:
        key, query, _ = self._read()
        if "uploadId" in query:
            if not self.has("keeps aborted uploads"):
                self.kept.uploads.pop(query["uploadId"], None)
        else:
            self._remove(key)
        self._answer(204)

    def _remove(self, key: str) -> None:
        if self.kept.objects.pop(key, None) is not None:
            self.kept.deleted[key] = time.monotonic()

    def do_GET(self) -> None:
        key, query, _ = self._read()
        if "/" not in key.rstrip("/"):
            self._list(key.rstrip("/"), query)
            return
        body = self.kept.objects.get(key)
        if body is None:
            self._refuse(404, "NoSuchKey")
            return
        if self.has("stale reads"):
            body = self.kept.before[key]
        facts = {"ETag": _etag(body), "Last_Modified": format_datetime(datetime.now(UTC), usegmt=True)}
        size = len(body)
        wanted = self.headers.get("Range")
        if not wanted or self.has("ignores ranges"):
            if wanted:
                facts["Content_Range"] = f"bytes {_first(wanted)}-{size - 1}/{size}"
                body = body[: size - _first(wanted)]  # the requested number of bytes, but from the beginning
            self._answer(206 if wanted else 200, body, **facts)
            return
        first = _first(wanted)
        if first >= size:
            self._refuse(416, "InvalidRange")
            return
        self._answer(206, body[first:], Content_Range=f"bytes {first}-{size - 1}/{size}", **facts)

    do_HEAD = do_GET  # noqa: N815

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        if "location" in query:
            self._answer(200, b"<LocationConstraint/>")
            return
        start = f"{bucket}/{query.get('prefix', '')}"
        state = self.kept
        if "uploads" in query:
            found = [(upload, key) for upload, (key, _) in list(state.uploads.items()) if key.startswith(start)]
            text = "".join(
                f"<Upload><Key>{escape(key.partition('/')[2])}</Key><UploadId>{upload}</UploadId></Upload>"
                for upload, key in found
            )
            self._answer(200, f"<ListMultipartUploadsResult>{text}</ListMultipartUploadsResult>".encode())
            return
        keys = sorted((key for key in list(state.objects) if key.startswith(start)), key=str.encode)
        now = time.monotonic()
        if self.has("stale listing"):
            keys = [key for key in keys if now - state.written.get(key, 0) > 0.5]
        if self.has("stale listing after delete"):
            keys += [key for key, at in list(state.deleted.items()) if key.startswith(start) and now - at < 60]
        if self.has("unsorted listing"):
            keys.reverse()
        begin = int(query.get("continuation-token") or 0)
        page = keys[begin : begin + _PAGE]
        more = begin + _PAGE < len(keys) and not self.has("truncated pages")
        entries = "".join(
            f"<Contents><Key>{escape(key.partition('/')[2])}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(_etag(state.objects.get(key, b'')))}</ETag><Size>{len(state.objects.get(key, b''))}</Size>"
            "</Contents>"
            for key in page
        )
        token = f"<NextContinuationToken>{begin + _PAGE}</NextContinuationToken>" if more else ""
        head = f"<Name>{bucket}</Name><IsTruncated>{str(more).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
        self._answer(200, f"<ListBucketResult>{head}{token}{entries}</ListBucketResult>".encode())


def _first(wanted: str) -> int:
    return int(wanted.removeprefix("bytes=").partition("-")[0] or 0)


def _between(text: str, name: str) -> list[str]:
    return [unescape(part.partition(f"</{name}>")[0]) for part in text.split(f"<{name}>")[1:]]
