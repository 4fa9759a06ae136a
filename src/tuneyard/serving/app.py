"""Our own server's app: the routes below and no others, and the key before everything.

Errors have OpenAI's shape. FastAPI's pages of documentation are not served.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tuneyard.serving.answering import Models
from tuneyard.serving.clients import WatchClient
from tuneyard.serving.guard import RequireKey
from tuneyard.serving.handlers import chat_handler, find_model, text_handler
from tuneyard.serving.openapi import openapi_document

ROUTES = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{model:path}", "/health", "/openapi.json"}
)


def build_app(models: Models, key: str) -> FastAPI:
    """Build the app.

    Args:
        models: What it serves.
        key: What clients have to send; empty where no key is needed.

    Returns:
        An ASGI app.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        del app
        yield
        models.drain(0)

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [models.card(name) for name in models.names]}

    async def show_model(model: str) -> dict[str, Any]:
        find_model(models, model)
        return models.card(model)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_api_route("/v1/chat/completions", chat_handler(models).handle, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", text_handler(models).handle, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", list_models, methods=["GET"])
    app.add_api_route("/v1/models/{model:path}", show_model, methods=["GET"])
    app.add_api_route("/health", health, methods=["GET"])
    document = openapi_document(models.names, guarded=bool(key))
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
    return _error(500, {"message": f"The request could not be answered: {error}"})


def _error(status: int, facts: dict[str, Any]) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"type": kind, "param": None, "code": None, **facts}}, status_code=status)
