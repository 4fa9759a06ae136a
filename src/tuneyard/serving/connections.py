"""Connections of clients: an ASGI middleware that limits bodies and notices at once when a client disconnects.

Starlette ends a stream whose client has disconnected; a whole answer would be computed to its end for nobody.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from tuneyard.serving.errors import RequestError
from tuneyard.serving.guard import App, Receive, Scope, Send

MAX_BODY_BYTES = 16 << 20
"""The largest body of a request: far beyond any model's context."""

disconnected: ContextVar[threading.Event | None] = ContextVar("disconnected", default=None)
"""An event for each request, set by `WatchConnection` when its client disconnects."""

_REQUEST_ID = b"x-request-id"


class WatchConnection:
    """Reads a request ahead of the app, and sets the event in `disconnected` when its client disconnects.

    Args:
        app: The app that handles the request.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _declared_size(scope) > MAX_BODY_BYTES:
            await _refuse(send)
            return
        request = _Request(receive, send, _header(scope, _REQUEST_ID) or str(uuid.uuid4()).encode())
        reader = asyncio.create_task(request.read())
        token = disconnected.set(request.disconnected)
        try:
            await self._app(scope, request.messages.get, request.send)
            if request.refused:
                await reader  # a client that is still sending would not read the response
                await _refuse(send)
        finally:
            disconnected.reset(token)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader


class _Request:
    """One request: its client's messages up to the limit, and the response to it."""

    def __init__(self, receive: Receive, send: Send, identifier: bytes) -> None:
        self.disconnected = threading.Event()
        self.refused = False
        """Whether the app's response was withheld, since the body was too large to pass on."""
        self.messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self._receive, self._send, self._identifier = receive, send, identifier
        self._too_large = False

    async def read(self) -> None:
        """Pass on the client's messages; read the rest of a body that is too large without keeping it."""
        size = 0
        while True:
            message = await self._receive()
            size += len(message.get("body", b""))
            ended = message["type"] == "http.disconnect"
            if size > MAX_BODY_BYTES and not self._too_large:
                self._too_large = True
                self.disconnected.set()
                self.messages.put_nowait({"type": "http.disconnect"})
            elif not self._too_large:
                self.messages.put_nowait(message)
            if ended:
                self.disconnected.set()
                return
            if self._too_large and (not message.get("more_body") or size > 2 * MAX_BODY_BYTES):
                return

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send the response with the request's id; withhold the app's response to a body that it did not get."""
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
    error = RequestError(f"The request is larger than {MAX_BODY_BYTES} bytes.", status=413, code="too_large")
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.response.model_dump_json().encode()})
