"""What happens between a client and the app: bodies have a limit, and a client that goes away is noticed at once.

A plain ASGI middleware. A stream notices by itself; a whole answer would be computed to its end for nobody.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from tuneyard.serve.answering import gone
from tuneyard.serve.guard import App, Receive, Scope, Send

MOST_BYTES = 16 << 20
"""The largest body of a request: far beyond any model's context."""


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
        if _told_size(scope) > MOST_BYTES:
            await _refuse(send)
            return
        event = threading.Event()
        messages: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        reader = asyncio.create_task(_read(receive, messages, event))
        token = gone.set(event)
        try:
            await self._app(scope, messages.get, send)
        finally:
            gone.reset(token)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader


def _told_size(scope: Scope) -> int:
    told = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(told) if told.isdigit() else 0


async def _refuse(send: Send) -> None:
    error = {"message": f"The request is larger than {MOST_BYTES} bytes.", "type": "invalid_request_error"}
    body = json.dumps({"error": {**error, "param": None, "code": "too_large"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive, messages: asyncio.Queue[MutableMapping[str, Any]], event: threading.Event) -> None:
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            message = {"type": "http.disconnect"}
        messages.put_nowait(message)
        if message["type"] == "http.disconnect":
            event.set()
            return
