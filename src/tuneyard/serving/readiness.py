"""Readiness of a server: whether its models answer a real completion over HTTP, not whether a port is open.

A client in plain Python, used by the server on itself and by whoever waits for it. It ignores proxies: the server is
on this machine or reached through a tunnel.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from tuneyard.errors import DeniedError, NotFoundError, UnavailableError

_POLL_SECONDS = 0.2
_REQUEST_SECONDS = 300.0


def wait_ready(
    url: str,
    key: str,
    model: str,
    timeout_seconds: float,
    *,
    check_alive: Callable[[], object] | None = None,
) -> None:
    """Wait until a model answers with a token.

    Args:
        url: The endpoint, with or without `/v1` at its end.
        key: The API key; empty for an open server.
        model: The model's name.
        timeout_seconds: How long to wait in all.
        check_alive: Called before each request; raises when there is nothing left to wait for.

    Raises:
        UnavailableError: The model does not answer in time.
        DeniedError: The server refuses the key.
        NotFoundError: The server has no model of that name.
    """
    until = time.monotonic() + timeout_seconds
    while True:
        if check_alive:
            check_alive()
        try:
            complete_once(url, key, model, timeout_seconds=max(1.0, min(_REQUEST_SECONDS, until - time.monotonic())))
        except UnavailableError as error:
            if time.monotonic() >= until:
                raise UnavailableError(
                    f"The model {model!r} at '{url}' did not answer within {timeout_seconds:g} s: {error.message}",
                    hint="See the server's log.",
                    url=url,
                    model=model,
                ) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def complete_once(url: str, key: str, model: str, *, timeout_seconds: float) -> None:
    """Request one token of a model, by a chat or, where it has no chat template, by a plain completion.

    Args:
        url: The endpoint.
        key: The API key; empty for an open server.
        model: The model's name.
        timeout_seconds: The timeout of each request.

    Raises:
        UnavailableError: The server can't be reached, or fails.
        DeniedError: The server refuses the key.
        NotFoundError: The server has no model of that name.
    """
    rest = {"model": model, "max_tokens": 1, "temperature": 0}
    chat = {**rest, "messages": [{"role": "user", "content": "Hello"}]}
    status, answer = _post(url, key, "/chat/completions", chat, timeout_seconds)
    if status == 400:
        status, answer = _post(url, key, "/completions", {**rest, "prompt": "Hello"}, timeout_seconds)
    if status == 200 and answer.get("choices"):
        return
    if status in (401, 403):
        raise DeniedError(
            f"The server at '{url}' refuses the key.", hint="Use the key that the server was started with."
        )
    if status == 404:
        raise NotFoundError(f"The server at '{url}' serves no model {model!r}.", url=url, model=model)
    raise UnavailableError(f"The server at '{url}' responded with status {status}.", url=url, status=status)


def local_url(host: str, port: int) -> str:
    """Return the URL at which clients on this machine reach a server.

    Args:
        host: The address it listens on; a wildcard becomes the loopback address.
        port: Its port.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  (read, not bound)
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def write_ready(path: Path, url: str, models: Sequence[str], engine: str) -> None:
    """Write the file that reports the server ready, atomically.

    Args:
        path: The file.
        url: The endpoint.
        models: The names that answer, those of the values' `model` first.
        engine: The server's engine, `vllm` or `transformers`.
    """
    facts = {"url": url, "models": list(models), "pid": os.getpid(), "engine": engine}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")
    Path(name).replace(path)


def _post(url: str, key: str, path: str, body: Mapping[str, Any], timeout: float) -> tuple[int, dict[str, Any]]:
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout)
    prefix = parts.path.rstrip("/")
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
    try:
        connection.request("POST", f"{prefix.removesuffix('/v1')}/v1{path}", json.dumps(body), headers)
        response = connection.getresponse()
        answer: Any = json.loads(response.read() or b"{}")
    except (OSError, HTTPException, ValueError) as error:
        raise UnavailableError(f"The server at '{url}' can't be reached ({error!r}).", url=url) from error
    finally:
        connection.close()
    return response.status, cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
