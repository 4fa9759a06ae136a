"""A server under attack: tampered weights are never loaded, and odd keys and bodies open and end nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import socket
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import serving
from tuneyard.errors import IntegrityError, NotFoundError, TuneyardError
from tuneyard.serving.guard import RequireKey
from tuneyard.serving.placement import place_models
from tuneyard.store import open_store
from tuneyard.values import InferenceValues

SEED = 20_261_126
TAMPERED = 50
CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "tuned", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}


def _tamper(rng: random.Random, folder: Path) -> str:
    """Change one file below a model's folder; say how."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(paths)
    body = path.read_bytes()
    kind = rng.choice(["flip", "truncate", "append", "zeros", "remove", "swap", "empty"])
    at = rng.randrange(len(body))
    if kind == "remove":
        path.unlink()
    elif kind == "swap":
        other = rng.choice([one for one in paths if one.read_bytes() != body])
        path.write_bytes(other.read_bytes())
    else:
        changed = {
            "flip": body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :],
            "truncate": body[:at],
            "append": body + rng.randbytes(9),
            "zeros": bytes(len(body)),
            "empty": b"",
        }[kind]
        path.write_bytes(changed)
    return f"{kind} {path.relative_to(folder)}"


@pytest.mark.parametrize("number", range(TAMPERED))
def test_tampered_model_is_never_placed(stored_models, tmp_path: Path, number: int) -> None:
    rng = random.Random(f"{SEED} {number}")
    store = tmp_path / "store"
    shutil.copytree(stored_models.store, store)
    how = _tamper(rng, store / rng.choice([serving.BASE, serving.TUNED]))
    values = InferenceValues.model_validate(serving.values())
    with pytest.raises(TuneyardError) as caught:
        place_models(values, open_store(store.as_uri()), tmp_path / "work")
    assert isinstance(caught.value, IntegrityError | NotFoundError), (how, caught.value)
    assert caught.value.exit_code in (4, 7), how


def test_tampered_model_never_becomes_ready(stored_models, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(stored_models.store, store)
    weights = store / serving.TUNED / "adapter_model.safetensors"
    body = weights.read_bytes()
    weights.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    server = serving.start(serving.values(), store, tmp_path / "server")
    assert server.process.wait(120) == 7
    assert not server.ready_file.exists()
    assert "adapter_model.safetensors" in server.log.read_text()


KEYS = (
    [], ["Bearer"], ["Bearer "], [serving.KEY], [f"Basic {serving.KEY}"], [f"Token {serving.KEY}"],
    [f"Bearer {serving.KEY}x"], [f"Bearer x{serving.KEY}"], [f"Bearer {serving.KEY[:-1]}"], [f"Bearer{serving.KEY}"],
    [f"Bearer {serving.KEY.upper()}"], [f"Bearer {serving.KEY}\0"], [f"Bearer\t{serving.KEY}"],
    [f"Bearer {serving.KEY}, Bearer x"], ["Bearer x", f"Bearer {serving.KEY}"], [f"Bearer {serving.KEY}"] * 2,
    ["Bearer null"], ["Bearer undefined"], ["Bearer *"], ["Bearer " + "x" * 60_000],
)  # fmt: skip


def _raw(server: serving.Server, request: bytes) -> bytes:
    """Send bytes as they are, and give the beginning of what comes back."""
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(request)
        with contextlib.suppress(OSError):
            return connection.recv(200)
    return b""


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_only_the_key_opens_a_route(server: serving.Server, number: int) -> None:
    headers = "".join(f"Authorization: {key}\r\n" for key in KEYS[number])
    for path in ("/health", "/v1/models", f"/v1/models?api_key={serving.KEY}"):
        request = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {serving.KEY}\r\nCookie: key={serving.KEY}\r\n{headers}\r\n"
        )
        status = _raw(server, request.encode("latin-1")).partition(b" ")[2][:3]
        assert status in (b"401", b"400"), (path, status)  # 400: uvicorn takes no such header


def test_no_spelling_of_a_path_bypasses_the_key(server: serving.Server) -> None:
    paths = (
        "/%68ealth",
        "//health",
        "/./health",
        "/v1/../health",
        "http://x/health",
        "/health;x",
        "/health#",
        "*",
        "/v1/models/%2e",
    )
    for method in ("GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "CONNECT", "get"):
        for path in paths:
            head = _raw(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert head.partition(b" ")[2][:3] in (b"401", b"400"), (method, path, head)


@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"Authorization", b"x-api-key", b"cookie"]),
            st.one_of(
                st.binary(max_size=60), st.sampled_from([b"Bearer ", b"bearer", b"Bearer secre", b"Basic secret"])
            ),
        ),
        max_size=4,
    )
)
def test_no_other_headers_pass_the_guard(headers: list[tuple[bytes, bytes]]) -> None:
    entered: list[Any] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        entered.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    guard = RequireKey(app, "secret-key-of-this-test")
    asyncio.run(guard({"type": "http", "headers": headers}, None, send))  # pyright: ignore[reportArgumentType]
    assert not entered
    assert sent[0]["status"] == 401


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_NAMES = (
    "model", "messages", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "stream", "n", "tools",
    "tool_choice", "stream_options", "response_format", "chat_template_kwargs", "logprobs", "user", "metadata", "echo",
)  # fmt: skip


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from([CHAT, "/v1/completions"]),
    fields=st.dictionaries(st.sampled_from(_NAMES), _json, max_size=4),
    roles=st.lists(st.sampled_from(["user", "assistant", "system", "tool", "alien"]), min_size=1, max_size=3),
    text=st.text(max_size=40),
)
def test_any_request_with_the_key_gets_an_answer_or_an_error(
    server: serving.Server, path: str, fields: dict[str, Any], roles: list[str], text: str
) -> None:
    request = {"messages": [{"role": role, "content": text} for role in roles]} if path == CHAT else {"prompt": text}
    body = json.dumps({"model": "tuned", "max_tokens": 1, **request, **fields})
    status, answer = server.raw(path, body.encode())
    assert status in (200, 400, 404), (status, answer, body)
    if status != 200:
        assert json.loads(answer)["error"]["message"]


@pytest.mark.parametrize("size", [1_000_000, pytest.param(15_000_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_oversized_prompt_is_refused_and_the_server_continues(server: serving.Server, path: str, size: int) -> None:
    text = "".join(random.Random(SEED).choices(string.ascii_letters + " ", k=size))
    body = (
        {**GOOD, "messages": [{"role": "user", "content": text}]}
        if path == CHAT
        else {"model": "tuned", "prompt": text}
    )
    status, answer = server.ask(path, body)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert server.ask(CHAT, GOOD)[0] == 200
