"""The guard of the API key, called as ASGI servers call it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tuneyard.errors import DeniedError
from tuneyard.serving.guard import RequireKey, key_of_environment


class Inside:
    """The guarded app: records the scopes that reach it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope, receive, send) -> None:
        self.seen.append(scope["type"])


def enter(kind: str, *headers: tuple[bytes, bytes], key: str = "right") -> tuple[list[str], list[dict[str, Any]]]:
    inside, sent = Inside(), []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        raise AssertionError("the guard reads no body")

    scope = {"type": kind, "path": "/anything", "headers": list(headers)}
    asyncio.run(RequireKey(inside, key)(scope, receive, send))
    return inside.seen, sent


def bearer(token: bytes) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token


@pytest.mark.parametrize("header", [bearer(b"right"), (b"Authorization", b"bearer right"), bearer(b" right ")])
def test_right_key_is_accepted(header):
    assert enter("http", header) == (["http"], [])


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [bearer(b"wrong")],
        [bearer(b"right2")],
        [bearer(b"righ")],
        [bearer(b"")],
        [(b"authorization", b"right")],
        [(b"authorization", b"Basic right")],
        [(b"x-api-key", b"right")],
        [bearer(b"wrong"), bearer(b"right")],
        [bearer(b"\xff\x00right")],
    ],
)
def test_other_credentials_get_openai_s_error(headers):
    seen, sent = enter("http", *headers)
    assert seen == []
    assert sent[0]["status"] == 401
    error = json.loads(sent[1]["body"])["error"]
    assert error["code"] == "invalid_api_key"
    assert "Authorization: Bearer" in error["message"]


def test_websocket_needs_the_key():
    seen, sent = enter("websocket")
    assert seen == []
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert enter("websocket", bearer(b"right"))[0] == ["websocket"]


def test_lifespan_needs_no_key():
    assert enter("lifespan")[0] == ["lifespan"]


def test_guard_without_a_key_raises():
    with pytest.raises(DeniedError, match="no key"):
        RequireKey(Inside(), "")


def test_key_of_environment_prefers_our_variable():
    assert key_of_environment({"TUNEYARD_API_KEY": "a", "VLLM_API_KEY": "b"}) == "a"
    assert key_of_environment({"TUNEYARD_API_KEY": "", "VLLM_API_KEY": "b"}) == "b"
    assert key_of_environment({}) == ""
    assert key_of_environment({"TUNEYARD_API_KEY": " a key\n"}) == "a key"
    assert key_of_environment({"TUNEYARD_API_KEY": "\n", "VLLM_API_KEY": "b"}) == "b"
    assert key_of_environment({"TUNEYARD_API_KEY": " \t\r\n"}) == ""
