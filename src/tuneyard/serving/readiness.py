"""Whether a server answers: asked by a real completion through its own door, never by a port that is open.

A client in plain Python: it is used by the server on itself and by whoever waits for it. It goes past proxies, since it
asks the machine it names.
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

_LOOK_SECONDS = 0.2
_ONE_TRY_SECONDS = 300.0


def wait_ready(
    url: str,
    key: str,
    model: str,
    timeout_seconds: float,
    *,
    still_there: Callable[[], object] | None = None,
) -> None:
    """Wait until a model answers with a token.

    Args:
        url: The endpoint, with or without `/v1` at its end.
        key: What it is asked with; empty where it wants none.
        model: The name to ask for.
        timeout_seconds: How long to wait in all.
        still_there: Called between tries; raises where waiting makes no sense any more.

    Raises:
        UnavailableError: It does not answer in time.
        DeniedError: It refuses the key.
        NotFoundError: It answers, and serves no model of that name.
    """
    until = time.monotonic() + timeout_seconds
    while True:
        if still_there:
            still_there()
        try:
            complete_once(url, key, model, timeout_seconds=max(1.0, min(_ONE_TRY_SECONDS, until - time.monotonic())))
        except UnavailableError as error:
            if time.monotonic() >= until:
                raise UnavailableError(
                    f"The model {model!r} at {url} does not answer after {timeout_seconds:g} s: {error.message}",
                    hint="See the server's log.",
                    url=url,
                    model=model,
                ) from error
            time.sleep(_LOOK_SECONDS)
        else:
            return


def complete_once(url: str, key: str, model: str, *, timeout_seconds: float) -> None:
    """Let a model make one token, as a chat or, where it has no chat template, as a plain completion.

    Args:
        url: The endpoint.
        key: What it is asked with.
        model: The name to ask for.
        timeout_seconds: How long it may take.

    Raises:
        UnavailableError: It can't be reached, or fails.
        DeniedError: It refuses the key.
        NotFoundError: It serves no model of that name.
    """
    rest = {"model": model, "max_tokens": 1, "temperature": 0}
    chat = {**rest, "messages": [{"role": "user", "content": "Hello"}]}
    status, answer = _post(url, key, "/chat/completions", chat, timeout_seconds)
    if status == 400:
        status, answer = _post(url, key, "/completions", {**rest, "prompt": "Hello"}, timeout_seconds)
    if status == 200 and answer.get("choices"):
        return
    if status in (401, 403):
        raise DeniedError(f"The server at {url} refuses the key.", hint="Give it the one the server was started with.")
    if status == 404:
        raise NotFoundError(f"The server at {url} serves no model {model!r}.", url=url, model=model)
    raise UnavailableError(f"The server at {url} answered with status {status}.", url=url, status=status)


def local_url(host: str, port: int) -> str:
    """Write the endpoint of a server on this machine, as its own clients here reach it.

    Args:
        host: What it listens on; the address for all of them becomes the loopback one.
        port: Its port.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  (read, not bound)
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


def write_ready(path: Path, url: str, models: Sequence[str], engine: str) -> None:
    """Say in a file that the server answers; it is there whole or not at all.

    Args:
        path: The file.
        url: The endpoint.
        models: The names that answer, the one that was asked for first.
        engine: What serves them.
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
        raise UnavailableError(f"The server at {url} can't be reached ({error!r}).", url=url) from error
    finally:
        connection.close()
    return response.status, cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
