"""What our own server's routes take and give, as an OpenAPI 3.2 document: `GET /openapi.json`.

Requests are described by the very models that check them, answers by those of OpenAI's client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from openai.types import Completion
from openai.types.chat import ChatCompletion
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import tuneyard
from tuneyard.serving.requests import ChatCompletionRequest, CompletionRequest

_EVENT = {
    "type": "object",
    "properties": {"data": {"type": "string", "description": "A chunk of the answer as JSON; [DONE] is the last"}},
    "required": ["data"],
}
_REFUSALS = {
    400: "The request can't be honoured",
    401: "No key, or a wrong one",
    404: "No such model",
    413: "Too large",
}


class Failure(BaseModel):
    """What went wrong, in OpenAI's shape."""

    type: str
    message: str
    param: str | None
    code: str | None


class Refusal(BaseModel):
    """The body of every answer that is none."""

    error: Failure


class ServedModel(BaseModel):
    """A model that answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int


class ServedModels(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"]
    data: list[ServedModel]


class Health(BaseModel):
    """`GET /health`."""

    status: Literal["ok"]


def openapi_document(names: Sequence[str], *, guarded: bool) -> dict[str, Any]:
    """Describe the routes.

    Args:
        names: The models that answer.
        guarded: Whether clients have to send a key.

    Returns:
        The document, as JSON can hold it.
    """
    posts = {
        "/v1/chat/completions": ("Answer a conversation", ChatCompletionRequest, ChatCompletion),
        "/v1/completions": ("Go on with a text", CompletionRequest, Completion),
    }
    gets = {
        "/v1/models": ("List the models", ServedModels),
        "/v1/models/{model}": ("Describe a model", ServedModel),
        "/health": ("Check that the server answers", Health),
    }
    kinds: list[type[BaseModel]] = [Refusal, *(kind for _, *both in (*posts.values(), *gets.values()) for kind in both)]
    schemas, definitions = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )

    operation = partial(_operation, {kind: schemas[kind, "validation"] for kind in kinds}, names)
    paths = {path: {"post": operation(words, answer, request)} for path, (words, request, answer) in posts.items()}
    paths |= {
        path: {"get": operation(words, answer, names_model="{model}" in path)} for path, (words, answer) in gets.items()
    }
    return {
        "openapi": "3.2.0",
        "info": {"title": "Tuneyard", "version": tuneyard.__version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if guarded else [],
    }


def _operation(
    schemas: Mapping[type[BaseModel], dict[str, Any]],
    names: Sequence[str],
    summary: str,
    answer: type[BaseModel],
    request: type[BaseModel] | None = None,
    *,
    names_model: bool = False,
) -> dict[str, Any]:
    refused = {
        str(status): {"description": why, "content": _content(schemas[Refusal])}
        for status, why in _REFUSALS.items()
        if request or status == 401 or (names_model and status == 404)
    }
    body = {"requestBody": {"required": True, "content": _content(schemas[request])}} if request else {}
    named = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": list(names)}}
    parameters = {"parameters": [named]} if names_model else {}
    answered = {"description": summary, "content": _content(schemas[answer], streamed=request is not None)}
    return {"summary": summary, **parameters, **body, "responses": {"200": answered, **refused}}


def _content(schema: dict[str, Any], *, streamed: bool = False) -> dict[str, Any]:
    stream = {"text/event-stream": {"itemSchema": _EVENT}} if streamed else {}
    return {"application/json": {"schema": schema}, **stream}
