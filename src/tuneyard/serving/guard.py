"""The API key: an ASGI middleware that guards every path of a server, `/health` and unknown paths included.

Plain Python, so that it wraps our own app and, through `--middleware`, vLLM's, whose own key guards only a few
prefixes. Probes and scrapers send the key too; there is no list of exceptions to get wrong.
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
    """Read the key that clients have to send; empty for a server that is open to anyone who can reach it.

    Surrounding whitespace is stripped, as in what a client sends: Secrets are often made from a line with its end.

    Args:
        environ: The environment to read; the process's own where None.
    """
    source = os.environ if environ is None else environ
    return next((key for name in KEY_VARIABLES if (key := source.get(name, "").strip())), "")


class RequireKey:
    """Passes on only requests with `Authorization: Bearer <key>`.

    Args:
        app: The guarded app.
        key: The key; that of the environment where None, since vLLM passes no arguments to a middleware.

    Raises:
        DeniedError: There is no key: a guard that lets everyone in would be a trap.
    """

    def __init__(self, app: App, key: str | None = None) -> None:
        key = key_of_environment() if key is None else key
        if not key:
            raise DeniedError(
                "There is no key to guard the server with.", hint=f"Set {KEY_VARIABLES[0]} in the environment."
            )
        self._app = app
        self._expected = _digest(f"Bearer {key}".encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await _refuse(send)

    def _is_allowed(self, scope: Scope) -> bool:
        given = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        # Hashes are compared, so the time taken depends on neither content nor length.
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
