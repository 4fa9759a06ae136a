"""What happens between a client and the app: bodies have a limit, and a client that goes away is noticed at once.

A plain ASGI middleware. A stream notices by itself; a whole answer would be computed to its end for nobody.
"""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from tuneyard.serving.answering import gone
from tuneyard.serving.guard import App, Receive, Scope, Send

MOST_BYTES = 16 << 20
"""The largest body of a request: far beyond any model's context."""

_REQUEST_ID = b"x-request-id"


class WatchClient:
    """Reads a request ahead of the app, and sets `answering.gone` when its client goes away.

    Args:
        app: What handles the request.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_size(scope) > MOST_BYTES:
            await _refuse(send)
            return
        request = _Request(receive, send, _header(scope, _REQUEST_ID) or str(uuid.uuid4()).encode())
        reader = asyncio.create_task(request.read())
        token = gone.set(request.gone)
        try:
            await self._app(scope, request.messages.get, request.send)
            if request.refused:
                await reader  # what a client still sends would keep it from reading the refusal
                await _refuse(send)
        finally:
            gone.reset(token)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader


class _Request:
    """One request: what its client sends, as far as that may be, and what it is answered."""

    def __init__(self, receive: Receive, send: Send, identifier: bytes) -> None:
        self.gone = threading.Event()
        self.refused = False
        """Whether the app's answer was left out, since its body was too large to give it."""
        self.messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._receive, self._send, self._identifier = receive, send, identifier
        self._too_large = False

    async def read(self) -> None:
        """Pass on what the client sends; of a body that is too large, read the rest without keeping it."""
        size = 0
        while True:
            message = await self._receive()
            size += len(message.get("body", b""))
            ended = message["type"] == "http.disconnect"
            if size > MOST_BYTES and not self._too_large:
                self._too_large = True
                self.gone.set()
                self.messages.put_nowait({"type": "http.disconnect"})
            elif not self._too_large:
                self.messages.put_nowait(message)
            if ended:
                self.gone.set()
                return
            if self._too_large and (not message.get("more_body") or size > 2 * MOST_BYTES):
                return

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Answer with the request's id; what the app says of a body that it did not get is left out."""
        if message["type"] == "http.response.start":
            self.refused = self._too_large
            message["headers"] = [*message.get("headers", ()), (_REQUEST_ID, self._identifier)]
        if not self.refused:
            await self._send(message)


def _header(scope: Scope, wanted: bytes) -> bytes:
    return next((value for name, value in scope["headers"] if name == wanted), b"")


def _declared_size(scope: Scope) -> int:
    size = _header(scope, b"content-length")
    return int(size) if size.isdigit() else 0


async def _refuse(send: Send) -> None:
    error = {"message": f"The request is larger than {MOST_BYTES} bytes.", "type": "invalid_request_error"}
    body = json.dumps({"error": {**error, "param": None, "code": "too_large"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
