"""The requests of OpenAI's protocol that our own server honours, as the models that type its routes.

A field that requests what the server can't do is refused by name, never ignored; values that request nothing
(`n: 1`, `presence_penalty: 0`) are accepted. Everything here is checked before anything is computed.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from tuneyard.serving.errors import RequestError

_UNREADABLE = "unreadable"
"""pydantic's type of the errors about a whole body whose message is for the client as it is."""

_IN_WORDS = {
    "extra_forbidden": "is not supported by this server",
    "missing": "is missing",
    "model_attributes_type": "Input should be an object",
}
"""For pydantic's types of errors whose own message is about Python."""

_NotEmpty = Annotated[str, Field(min_length=1)]
_TEMPLATE_PARAMETERS = frozenset(
    {
        "messages",
        *inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters,
        *inspect.signature(render_jinja_template).parameters,
    }
)
"""The names that transformers passes to a chat template itself, and its own parameters."""


def _number_or_bool(value: Any, *, number: bool) -> Any:
    """Distinguish true from 1 and false from 0, which are equal in Python."""
    if value is not None and isinstance(value, bool) == number:
        raise ValueError("has to be a number" if number else "has to be true or false")
    return value


_NUMBER = BeforeValidator(partial(_number_or_bool, number=True))
_One = Annotated[Literal[1], _NUMBER]
_Zero = Annotated[Literal[0], _NUMBER]
_No = Annotated[Literal[False], BeforeValidator(partial(_number_or_bool, number=False))]


class GenerationRequest(BaseModel):
    """The fields that chats and completions have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    prompt_field: ClassVar[str]
    """The field that holds the prompt."""

    model: str
    stream: bool | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: _NotEmpty | Annotated[list[_NotEmpty], Field(max_length=16)] | None = None
    user: Any = None
    metadata: Any = None
    store: _No | None = None
    n: _One | None = None
    presence_penalty: _Zero | None = None
    frequency_penalty: _Zero | None = None
    stream_options: StreamOptions | None = None

    _body: dict[str, Any] = PrivateAttr(default_factory=dict[str, Any])
    """The JSON as it came: chat templates render some of it in the order of its keys, which the fields lose."""

    @model_validator(mode="wrap")
    @classmethod
    def texts_are_unicode(cls, body: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse what JSON can write and no text can hold, wherever it is; keep the body."""
        if isinstance(body, dict):
            _check_texts(cast("dict[str, Any]", body))
        request = handler(body)
        request._body = body
        return request

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop words, which end the answer before them."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def characters(self) -> int:
        """The length of the prompt's texts."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None for what the prompt leaves of the context."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class StreamOptions(BaseModel):
    """What a stream holds besides the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: _No | None = None


class TextPart(BaseModel):
    """One part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class RequestMessage(BaseModel):
    """One message. Further fields that a template may read (a name, reasoning) are passed on."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[MessageToolCall] | None = None

    @property
    def characters(self) -> int:
        """The length of its text."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return sum(map(len, parts))


class CalledFunction(BaseModel):
    """The function that an earlier answer called."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: dict[str, Any] | str


class MessageToolCall(BaseModel):
    """A tool call in an earlier answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    function: CalledFunction


class OfferedFunction(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: _NotEmpty
    parameters: dict[str, Any] | None = None


class OfferedTool(BaseModel):
    """A tool that the model may call; functions are the only kind."""

    model_config = ConfigDict(extra="allow", strict=True)

    type: Literal["function"]
    function: OfferedFunction


class ChatCompletionRequest(GenerationRequest):
    """`POST /v1/chat/completions`."""

    prompt_field: ClassVar[str] = "messages"

    messages: Annotated[list[RequestMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    response_format: TextFormat | None = None
    logprobs: _No | None = None
    top_logprobs: _Zero | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @field_validator("chat_template_kwargs")
    @classmethod
    def template_keywords_are_the_templates_own(cls, given: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refuse keywords that would reach transformers instead of the template, another template among them."""
        wrong = sorted(_TEMPLATE_PARAMETERS & set(given or ()))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} can't be set by a request")
        return given

    @property
    def characters(self) -> int:
        """The length of the messages' texts."""
        return sum(message.characters for message in self.messages)

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None for what the prompt leaves of the context."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def given_messages(self) -> list[dict[str, Any]]:
        """The messages as they came, without fields that are null."""
        given = cast("list[dict[str, Any]]", self._body["messages"])
        return [{key: value for key, value in message.items() if value is not None} for message in given]

    @property
    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools as they came; None where the model is offered none."""
        return self._body["tools"] if self.tools and self.tool_choice != "none" else None


class TextFormat(BaseModel):
    """The only supported response format."""

    type: Literal["text"]


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`."""

    prompt_field: ClassVar[str] = "prompt"

    prompt: _NotEmpty
    echo: _No | None = None
    best_of: _One | None = None
    logprobs: _Zero | None = None
    suffix: Literal[""] | None = None

    @property
    def characters(self) -> int:
        """The length of the prompt."""
        return len(self.prompt)


def describe_problems(problems: Sequence[Mapping[str, Any]]) -> RequestError:
    """Put what FastAPI found wrong with a request's body into one error.

    Args:
        problems: pydantic's errors, each with a location that begins with `body`.

    Returns:
        An error with the status 400 that names every field at fault.
    """
    if problems[0]["type"] == _UNREADABLE:
        return RequestError(problems[0]["msg"])
    found = [(".".join(map(str, one["loc"][1:])), _IN_WORDS.get(one["type"], one["msg"])) for one in problems]
    if problems[0]["type"] == "json_invalid" or not found[0][0]:
        return RequestError("The request's body is not a JSON object.", code="invalid_json")
    return RequestError("; ".join(f"{where}: {what}" for where, what in found), param=found[0][0].split(".")[0])


def _check_texts(body: dict[str, Any]) -> None:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"{error.object[error.start]!a}"
        message = "The request contains the unpaired surrogate {half}."
        raise PydanticCustomError(_UNREADABLE, message, {"half": half}) from error
    except RecursionError as error:
        raise PydanticCustomError(_UNREADABLE, "The request is nested too deeply.") from error
