"""The refusals of a real server: everything without the key, and requests it can't answer, each with a reason."""

from __future__ import annotations

import json
from contextlib import closing, suppress
from http.client import HTTPConnection

import pytest

GOOD = {"model": "tuned", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD")
UNSERVED = ("/load_model", "/reset", "/v1/responses", "/v1/audio/transcriptions", "/docs", "/redoc")


@pytest.fixture(scope="module")
def routes() -> list[str]:
    from tuneyard.serving.app import build_app
    from tuneyard.serving.generation import ModelManager

    return [route.path for route in build_app(ModelManager(()), "key").routes]


def test_app_has_exactly_these_routes(routes):
    models = {"/v1/models", "/v1/models/{model:path}"}
    assert set(routes) == {"/v1/chat/completions", "/v1/completions", "/health", "/openapi.json", *models}


def test_every_path_needs_the_key_with_every_method(server, routes):
    for path in [*routes, *UNSERVED, "/", "/nowhere", "//v1/models", "/v1/models/"]:
        for method in METHODS:
            for key in ("", "wrong"):
                status, _ = server.raw(path, json.dumps(GOOD).encode(), method, key)
                assert status == 401, (path, method, key)


def test_unserved_paths_are_not_found(server):
    for path in UNSERVED:
        for method in ("GET", "POST"):
            assert server.raw(path, b"{}", method)[0] == 404, (path, method)
    assert server.ask("/health") == (200, {"status": "ok"})


def test_unknown_model_is_not_found_and_the_names_are_listed(server):
    for path, body in (("/v1/chat/completions", GOOD), ("/v1/completions", {"prompt": "Hello"})):
        for name in ("nobody", "tuned@main", "tuned:x.gguf", "../base", ""):
            status, answer = server.ask(path, {**body, "model": name})
            assert status == 404, (path, name, answer)
            assert answer["error"]["code"] == "model_not_found"
            assert "tuned, tiny, brief, other" in answer["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_body_that_is_not_an_object_is_a_bad_request(server, path, body):
    status, answer = server.ask(path, body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


WRONG_CHATS = {
    "messages: is missing": {"messages": ...},
    "model: is missing": {"model": ...},
    "messages: List should have at least 1 item": {"messages": []},
    "messages: Input should be a valid list": {"messages": "Hello"},
    "messages.0: Input should be": {"messages": ["Hello"]},
    "messages.0.role: is missing": {"messages": [{"content": "Hello"}]},
    "messages.0.role: Input should be 'system'": {"messages": [{"role": "alien", "content": "Hello"}]},
    "messages.0.content": {"messages": [{"role": "user", "content": 5}]},
    "image_url": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}]
    },
    "temperature: Input should be greater": {"temperature": -1},
    "temperature: Input should be a valid number": {"temperature": "hot"},
    "top_p": {"top_p": 0},
    "max_tokens": {"max_tokens": 0},
    "n: Input should be 1": {"n": 2},
    "logprobs": {"logprobs": True},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "response_format": {"response_format": {"type": "json_object"}},
    "generation_config: is not supported by this server": {"generation_config": "{}"},
    "best_friend: is not supported by this server": {"best_friend": "me"},
    "stop": {"stop": [""]},
    "chat_template can't be set by a request": {"chat_template_kwargs": {"chat_template": "{{ 7 * 7 }}"}},
    "tokenize can't be set by a request": {"chat_template_kwargs": {"tokenize": False}},
    "messages, tools can't be set by a request": {"chat_template_kwargs": {"messages": [], "tools": [], "own": 1}},
    "contains the unpaired surrogate '\\ud800'": {"messages": [{"role": "user", "content": "a\ud800b"}]},
    "surrogate '\\udfff'": {"chat_template_kwargs": {"own": ["\udfff"]}},
    "surrogate '\\udc00'": {"\udc00": 1},
    "at most 2048": {"messages": [{"role": "user", "content": "yard " * 3000}]},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", WRONG_CHATS)
def test_invalid_chat_is_a_bad_request_with_the_reason(server, words, stream):
    body = {name: value for name, value in {**GOOD, "stream": stream, **WRONG_CHATS[words]}.items() if value is not ...}
    status, answer = server.ask("/v1/chat/completions", body)
    assert status == 400, answer
    assert words.split(":")[0] in answer["error"]["message"]
    assert words in answer["error"]["message"] or ":" not in words


@pytest.mark.parametrize(
    "more",
    [
        {"prompt": ...},
        {"prompt": ""},
        {"prompt": "a\ud800"},
        {"prompt": "a", "stop": "\ud800"},
        {"prompt": ["a", "b"]},
        {"echo": True},
        {"suffix": "x"},
    ],
)
def test_invalid_completion_is_a_bad_request(server, more):
    body = {name: value for name, value in {"model": "tuned", "prompt": "a", **more}.items() if value is not ...}
    status, answer = server.ask("/v1/completions", body)
    assert status == 400, answer


def test_fields_that_request_nothing_are_accepted(server):
    nothing = {
        "n": 1,
        "user": "me",
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "stream_options": {"include_usage": True},
        "response_format": {"type": "text"},
        "top_p": 1.0,
        "stop": None,
        "tools": None,
    }
    status, answer = server.ask("/v1/chat/completions", {**GOOD, **nothing})
    assert status == 200, answer


def test_message_may_have_text_parts(server):
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert server.ask("/v1/chat/completions", {**GOOD, "messages": [{"role": "user", "content": parts}]})[0] == 200


def test_oversized_body_is_refused_by_its_content_length(server):
    """Only the header is sent: a server that reads the body would wait for it."""
    host, port = server.url.split("/")[2].split(":")
    with closing(HTTPConnection(host, int(port), timeout=60)) as connection:
        connection.putrequest("POST", "/v1/chat/completions")
        connection.putheader("Authorization", f"Bearer {server.key}")
        connection.putheader("Content-Length", str(20 << 20))
        connection.endheaders()
        assert connection.getresponse().status == 413


def chunked(server, chunks) -> tuple[int, str]:
    """Send a body without a content length; return the status and the error's code."""
    host, port = server.url.split("/")[2].split(":")
    with closing(HTTPConnection(host, int(port), timeout=60)) as connection:
        headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", chunks, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()).get("error", {}).get("code")


def test_chunked_body_is_limited(server):
    """One byte more than the limit is refused, of a request that would be answered otherwise."""
    good = json.dumps(GOOD).encode()
    space = [b" " * (1 << 20)] * 15
    rest = (1 << 20) - len(good)
    assert chunked(server, iter([*space, b" " * rest, good]))[0] == 200
    assert chunked(server, iter([*space, b" " * (rest + 1), good])) == (413, "too_large")
    assert chunked(server, iter([b"a" * (1 << 20)] * 25)) == (413, "too_large")


def test_endless_body_is_abandoned(server):
    """How the client notices depends on what it has sent by then."""
    sent = 0

    def endless():
        nonlocal sent
        while sent < 200 << 20:
            sent += 1 << 20
            yield b" " * (1 << 20)

    with suppress(OSError):
        assert chunked(server, endless()) == (413, "too_large")
    assert sent < 100 << 20
    assert server.ask("/health")[0] == 200


def test_log_has_no_traceback_afterwards(server):
    assert "Traceback" not in server.log.read_text()
