"""OpenAI's requests as far as they are honoured here, checked before anything is computed.

Fields that request something the server can't do are refused by name, never passed over; those that request nothing
(`n: 1`, `presence_penalty: 0`) are taken.
"""

from __future__ import annotations

import inspect
import json
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, field_validator
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

_Request = TypeVar("_Request", bound="GenerationRequest")
_NotEmpty = Annotated[str, Field(min_length=1)]
_TEMPLATE_PARAMETERS = frozenset(
    {
        "messages",
        *inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters,
        *inspect.signature(render_jinja_template).parameters,
    }
)
"""What transformers itself gives a chat template, or takes for itself."""


def _number_or_bool(value: Any, *, number: bool) -> Any:
    """Keep true and 1 apart, and false and 0, which are equal in Python."""
    if value is not None and isinstance(value, bool) == number:
        raise ValueError("has to be a number" if number else "has to be true or false")
    return value


_NUMBER = BeforeValidator(partial(_number_or_bool, number=True))
_One = Annotated[Literal[1], _NUMBER]
_Zero = Annotated[Literal[0], _NUMBER]
_No = Annotated[Literal[False], BeforeValidator(partial(_number_or_bool, number=False))]


class GenerationRequest(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    prompt_field: ClassVar[str]
    """The field that holds what is answered."""

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

    @property
    def stops(self) -> tuple[str, ...]:
        """The words that the answer ends before."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def characters(self) -> int:
        """How long the texts of the prompt are."""
        raise NotImplementedError

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None for all that the prompt leaves."""
        return self.max_tokens

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the number of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: _No | None = None


class TextPart(BaseModel):
    """One part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class RequestMessage(BaseModel):
    """One message. What a template may want besides (names, tool calls) is passed on."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[MessageToolCall] | None = None

    @property
    def characters(self) -> int:
        """How long its text is."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return sum(map(len, parts))


class CalledFunction(BaseModel):
    """What an earlier answer called."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: dict[str, Any] | str


class MessageToolCall(BaseModel):
    """A call in an earlier answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    function: CalledFunction


class OfferedFunction(BaseModel):
    """A function that the model may call."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: _NotEmpty
    parameters: dict[str, Any] | None = None


class OfferedTool(BaseModel):
    """A tool on offer; functions are the only kind."""

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
    response_format: PlainFormat | None = None
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
        """How long the texts of the messages are."""
        return sum(message.characters for message in self.messages)

    @property
    def limit(self) -> int | None:
        """The most tokens of the answer; None for all that the prompt leaves."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def given_messages(self) -> list[dict[str, Any]]:
        """The messages as they came: templates render some of what is in them in the order that it has."""
        given = cast("list[dict[str, Any]]", self._body["messages"])
        return [{key: value for key, value in message.items() if value is not None} for message in given]

    @property
    def offered_tools(self) -> list[dict[str, Any]] | None:
        """The tools that the model is offered, as they came; None where there are none."""
        return self._body["tools"] if self.tools and self.tool_choice != "none" else None


class PlainFormat(BaseModel):
    """The only form of an answer there is."""

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
        """How long the prompt is."""
        return len(self.prompt)


def read_request(kind: type[_Request], body: dict[str, Any]) -> _Request:
    """Check a request.

    Args:
        kind: Which.
        body: The JSON that came.

    Returns:
        The request.

    Raises:
        HTTPException: 400 with everything that is wrong with it.
    """
    _refuse_unwritable(body)
    try:
        request = kind.model_validate(body)
        request._body = body  # pyright: ignore[reportPrivateUsage]
        return request
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        wrong = [(".".join(str(part) for part in one["loc"]), _words(one["type"], one["msg"])) for one in found]
        message = "; ".join(f"{where}: {what}" for where, what in wrong)
        raise HTTPException(400, {"message": message, "param": wrong[0][0].split(".")[0]}) from error


def _refuse_unwritable(body: dict[str, Any]) -> None:
    """Refuse what JSON can write and no text can hold, wherever it stands: no tokenizer takes it, and no answer."""
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        message = f"A text of the request has {error.object[error.start]!a} in it, which is half of a character."
        raise HTTPException(400, {"message": message}) from error
    except RecursionError as error:
        raise HTTPException(400, {"message": "The request is nested too deeply."}) from error


def _words(kind: str, otherwise: str) -> str:
    return {"extra_forbidden": "is not supported by this server", "missing": "is missing"}.get(kind, otherwise)
