"""The key at the door: no route of a server answers without it, `/health` included.

An ASGI middleware in plain Python, so that it stands before our own app and, by `--middleware`, before vLLM's, whose
own key guards only a few prefixes. Probes and scrapers send the key too; there is no list of exceptions to get wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from tuneyard.errors import DeniedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY_VARIABLES = ("TUNEYARD_API_KEY", "VLLM_API_KEY")
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def key_of_environment(environ: Mapping[str, str] | None = None) -> str:
    """Read the key that clients have to send; empty where anyone who can reach the server may ask.

    Whitespace around it is no part of it, as of what a client sends: Secrets are often made of a line with its end.

    Args:
        environ: Where to read; the process's own environment where None.
    """
    source = os.environ if environ is None else environ
    return next((key for name in KEY_VARIABLES if (key := source.get(name, "").strip())), "")


class RequireKey:
    """Lets a request through only with `Authorization: Bearer <key>`.

    Args:
        app: What is guarded.
        key: The key; that of the environment where None, which is how vLLM makes one.

    Raises:
        DeniedError: There is no key to ask for: a guard that lets everyone in would be a lie.
    """

    def __init__(self, app: App, key: str | None = None) -> None:
        key = key_of_environment() if key is None else key
        if not key:
            raise DeniedError("There is no key to guard the server with.", hint=f"Set {KEY_VARIABLES[0]}.")
        self._app = app
        self._expected = _digest(f"Bearer {key}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self._may_enter(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await _refuse(send)

    def _may_enter(self, scope: Scope) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # Compared as hashes: the time taken tells neither content nor length.
        return hmac.compare_digest(_digest(scheme.title() + b" " + token.strip()), self._expected)


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


async def _refuse(send: Send) -> None:
    message = "The server's key is missing or wrong: send it as `Authorization: Bearer <key>`."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
