"""The app of our own server without a model: its document, and its errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from tuneyard.serving.app import build_app
from tuneyard.serving.generation import ModelManager

KEY = "a-key"
TEXT = {"model": "m", "prompt": "a"}


def send(method: str, path: str, body: bytes = b"", *, key: str = KEY, kind: str = "application/json") -> Any:
    async def request() -> Any:
        transport = httpx2.ASGITransport(app=build_app(ModelManager(()), KEY))
        headers = {"Authorization": f"Bearer {key}", "Content-Type": kind}
        async with httpx2.AsyncClient(transport=transport, base_url="http://in-process") as client:
            return await client.request(method, path, content=body, headers=headers)

    return asyncio.run(request())


def test_document_is_that_of_the_routes():
    app = build_app(ModelManager(()), KEY)
    document = app.openapi()
    routes = {route.path.replace("{model:path}", "{model}") for route in app.routes}
    assert document["paths"].keys() | {"/openapi.json"} == routes
    requests = {
        path: operation["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path, operation in document["paths"].items()
        if "post" in operation
    }
    assert requests == {"/v1/chat/completions": "ChatCompletionRequest", "/v1/completions": "CompletionRequest"}
    assert send("GET", "/openapi.json").json() == document


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_document_has_streams_and_no_response_that_is_never_sent(path):
    responses = build_app(ModelManager(()), KEY).openapi()["paths"][path]["post"]["responses"]
    assert responses["200"]["content"].keys() == {"application/json", "text/event-stream"}
    assert responses.keys() == {"200", "400", "401", "404", "413", "default"}


def test_document_requires_the_key_only_where_there_is_one():
    guarded, open_ = (build_app(ModelManager(()), key).openapi() for key in (KEY, ""))
    assert guarded["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for operations in guarded["paths"].values():
        assert [operation["security"] for operation in operations.values()] == [[{"key": []}]]
    assert "securitySchemes" not in open_["components"]
    assert "security" not in json.dumps(open_["paths"])


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "TRACE"])
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/openapi.json", "/nowhere"])
def test_every_path_needs_the_key(method, path):
    assert send(method, path, key="wrong").status_code == 401


INVALID = {
    "not JSON": (b"{", "The request's body is not a JSON object."),
    "not an object": (b"[]", "The request's body is not a JSON object."),
    "nothing": (b"", "The request's body is not a JSON object."),
    "nested deeply": (b'{"a":' * 60_000, "There was an error parsing the body"),
    "nested and valid": (b'{"metadata":' + b"[" * 900 + b"]" * 900 + b"}", "model: is missing; prompt: is missing"),
    "an unpaired surrogate": (b'{"metadata": ["\\ud800"]}', "contains the unpaired surrogate '\\ud800'"),
    "an unknown field": (json.dumps({**TEXT, "x": 1}).encode(), "x: is not supported by this server"),
    "true for one": (json.dumps({**TEXT, "n": True}).encode(), "n: Value error, has to be a number"),
}


@pytest.mark.parametrize("kind", INVALID)
def test_invalid_body_is_a_bad_request_with_the_reason(kind):
    body, reason = INVALID[kind]
    response = send("POST", "/v1/completions", body)
    assert response.status_code == 400
    assert reason in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_body_of_another_content_type_is_a_bad_request():
    response = send("POST", "/v1/completions", json.dumps(TEXT).encode(), kind="text/plain")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_json")


def test_unknown_model_is_not_found():
    for response in (send("POST", "/v1/completions", json.dumps(TEXT).encode()), send("GET", "/v1/models/m")):
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def test_other_errors_have_openai_s_shape():
    response = send("DELETE", "/health")
    assert response.status_code == 405
    assert response.json()["error"] == {
        "type": "invalid_request_error",
        "message": "/health: Method Not Allowed",
        "param": None,
        "code": None,
    }
