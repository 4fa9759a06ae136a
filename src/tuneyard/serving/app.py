"""The app of our own server: routes typed by the request and response models, which FastAPI writes the document from.

Errors have OpenAI's shape. FastAPI's documentation pages are not served. Sits on `generation`; knows nothing of how
models are loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Literal, TypeVar, cast

from fastapi import Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer
from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from tuneyard.serving.answers.parsing import Part
from tuneyard.serving.connections import WatchConnection
from tuneyard.serving.errors import ErrorResponse, RequestError
from tuneyard.serving.generation import GenerationTask, ModelManager
from tuneyard.serving.guard import RequireKey
from tuneyard.serving.loading import LoadedModel
from tuneyard.serving.requests import (
    ChatCompletionRequest,
    CompletionRequest,
    GenerationRequest,
    describe_problems,
)
from tuneyard.serving.responses import ChatResponse, Ending, ModelCard, TextResponse, events, new_identifier
from tuneyard.serving.tasks import chat_task, refuse_oversized, text_task

_Request = TypeVar("_Request", bound=GenerationRequest)
_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk of the answer as JSON; the last is [DONE]"}},
    "required": ["data"],
}
_STREAMED: dict[str, Any] = {"content": {"text/event-stream": {"itemSchema": _EVENT}}}
_ERRORS = {
    400: "The request is invalid or can't be honoured",
    401: "The key is missing or wrong",
    404: "There is no such model",
    413: "The request is too large",
}


class ModelList(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """`GET /health`."""

    status: Literal["ok"] = "ok"


def build_app(models: ModelManager, key: str) -> FastAPI:
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

    app = FastAPI(
        title="Tuneyard",
        version=version("tuneyard"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # Puts the scheme into the document. `RequireKey` checks the key before routing, so that paths without a route
        # and the document itself are guarded too.
        dependencies=[Depends(HTTPBearer(scheme_name="key", auto_error=False))] if key else [],
        exception_handlers={
            RequestError: _request_error,
            RequestValidationError: _invalid_request,
            HTTPException: _http_error,
            Exception: _internal_error,
        },
    )
    app.openapi_version = "3.2.0"  # the first that describes the events of a stream
    app.add_middleware(cast("Any", WatchConnection))
    if key:
        app.add_middleware(cast("Any", RequireKey), key=key)
    _add_generation_routes(app, models)
    _add_model_routes(app, models)
    return app


def _add_generation_routes(app: FastAPI, models: ModelManager) -> None:
    route: dict[str, Any] = {
        "response_model_exclude_unset": True,
        "responses": {200: _STREAMED, **_errors(400, 401, 404, 413)},
    }

    @app.post("/v1/chat/completions", summary="Create a chat completion", response_model=ChatCompletion, **route)
    async def create_chat_completion(request: ChatCompletionRequest) -> Any:
        response = ChatResponse(new_identifier("chatcmpl"), request.model, request.wants_usage)
        return await _answer(models, request, chat_task, response)

    @app.post("/v1/completions", summary="Create a completion", response_model=Completion, **route)
    async def create_completion(request: CompletionRequest) -> Any:
        response = TextResponse(new_identifier("cmpl"), request.model, request.wants_usage)
        return await _answer(models, request, text_task, response)


def _add_model_routes(app: FastAPI, models: ModelManager) -> None:
    # An enumeration in the document alone: an unknown name is 404, not a validation error.
    served_name: Any = Path(json_schema_extra={"enum": list(models.names)})

    @app.get("/v1/models", summary="List the models", responses=_errors(401))
    async def list_models() -> ModelList:
        return ModelList(data=[models.card(name) for name in models.names])

    @app.get("/v1/models/{model:path}", summary="Describe a model", responses=_errors(401, 404))
    async def show_model(model: str = served_name) -> ModelCard:
        return models.card(model)

    @app.get("/health", summary="Check the server's health", responses=_errors(401))
    async def check_health() -> Health:
        return Health()


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe error responses; with a default among them, FastAPI adds no 422, which this server never sends."""
    described: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": _ERRORS[status]} for status in statuses
    }
    return {**described, "default": {"model": ErrorResponse, "description": "Any other error"}}


async def _answer(
    models: ModelManager,
    request: _Request,
    make_task: Callable[[_Request, LoadedModel], GenerationTask],
    response: ChatResponse,
) -> StreamingResponse | dict[str, Any]:
    """Answer a request, as a stream or as the body of a whole completion.

    Raises:
        RequestError: It can't be honoured, or not be answered to its end.
    """
    model = models.find(request.model)
    refuse_oversized(request, model)
    task = await asyncio.to_thread(make_task, request, model)
    generated = models.answer(model, task)
    if request.stream:
        return StreamingResponse(events(response, generated), media_type="text/event-stream")
    parts: list[Part] = []
    try:
        async for part in generated:
            if isinstance(part, Ending):
                return response.whole(parts, part)
            parts.append(part)
    finally:
        await generated.aclose()
    raise AssertionError("an answer ends with its ending")


async def _request_error(request: Request, error: Exception) -> JSONResponse:
    del request
    assert isinstance(error, RequestError)
    return JSONResponse(error.response.model_dump(), status_code=error.status)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _request_error(request, describe_problems(error.errors()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = f"{request.url.path}: {error.detail}"
    return await _request_error(request, RequestError(message, status=error.status_code))


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return await _request_error(request, RequestError(f"The request could not be answered: {error}", status=500))
