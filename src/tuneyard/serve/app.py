"""Our own server's app: transformers' `build_server` with our models, fewer routes, and the key before everything.

Routes that load, unload or transcribe are taken out, as are FastAPI's pages of documentation: what is left is the list
below. Errors have OpenAI's shape.
"""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState

from tuneyard.serve.answering import Models
from tuneyard.serve.clients import WatchClient
from tuneyard.serve.guard import RequireKey
from tuneyard.serve.handlers import ChatHandler, TextHandler
from tuneyard.serve.openapi import openapi_document

ROUTES = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/openapi.json"})


def build_app(models: Models, key: str) -> FastAPI:
    """Build the app.

    Args:
        models: What it serves.
        key: What clients have to send; empty where anyone may ask.

    Returns:
        An ASGI app.
    """
    state = GenerationState()
    unused = cast("Any", None)  # handlers of routes that are taken out below
    app = build_server(
        cast("Any", models),
        ChatHandler(models, state),
        completion_handler=TextHandler(models, state),
        response_handler=unused,
        transcription_handler=unused,
        generation_state=state,
    )
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") in ROUTES]
    document = openapi_document(guarded=bool(key))
    app.openapi = lambda: document
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _not_json)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(cast("Any", WatchClient))
    if key:
        app.add_middleware(cast("Any", RequireKey), key=key)
    return app


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = cast("Any", error.detail)
    facts: dict[str, Any] = detail if isinstance(detail, dict) else {"message": f"{request.url.path}: {detail}"}
    return _error(error.status_code, facts)


async def _not_json(request: Request, error: Exception) -> JSONResponse:
    del request, error
    return _error(400, {"message": "The request's body is not a JSON object.", "code": "invalid_json"})


async def _failed(request: Request, error: Exception) -> JSONResponse:
    del request
    return _error(500, {"message": f"The question could not be answered: {error}"})


def _error(status: int, facts: dict[str, Any]) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"type": kind, "param": None, "code": None, **facts}}, status_code=status)
