"""What may be asked: OpenAI's requests as far as they are honoured here, checked before anything is computed.

Fields that ask for something the server can't do are refused by name, never passed over; those that ask for nothing
(`n: 1`, `presence_penalty: 0`) are taken.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from transformers import PreTrainedTokenizerFast

_Asked = TypeVar("_Asked", bound="Asked")
_NotEmpty = Annotated[str, Field(min_length=1)]
_TEMPLATE_PARAMETERS = frozenset(inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters)


def _told_apart(value: Any, *, number: bool) -> Any:
    """Keep true and 1 apart, and false and 0, which are equal in Python."""
    if value is not None and isinstance(value, bool) == number:
        raise ValueError("has to be a number" if number else "has to be true or false")
    return value


_NUMBER = BeforeValidator(partial(_told_apart, number=True))
_One = Annotated[Literal[1], _NUMBER]
_Zero = Annotated[Literal[0], _NUMBER]
_No = Annotated[Literal[False], BeforeValidator(partial(_told_apart, number=False))]


class Asked(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

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
    stream_options: dict[str, Any] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The words that the answer ends before."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def body(self) -> dict[str, Any]:
        """Give what transformers' handlers take of it."""
        passed_over = {"user", "metadata", "store", "n", "presence_penalty", "frequency_penalty", "stream_options"}
        if not self.stops:
            passed_over |= {"stop"}
        return self.model_dump(exclude_none=True, exclude=passed_over)


class TextPart(BaseModel):
    """One part of a message."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str


class AskedMessage(BaseModel):
    """One message. What a template may want besides (names, tool calls) is passed on."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    tool_calls: list[AskedToolCall] | None = None

    @property
    def characters(self) -> int:
        """How long its text is."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content or ()]
        return sum(map(len, parts))


class AskedFunction(BaseModel):
    """What an earlier answer called."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    arguments: dict[str, Any] | str


class AskedToolCall(BaseModel):
    """A call in an earlier answer."""

    model_config = ConfigDict(extra="allow", strict=True)

    function: AskedFunction


class AskedChat(Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[AskedMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: list[dict[str, Any]] | None = None
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

    def body(self) -> dict[str, Any]:
        """Give what transformers' handlers take of it."""
        body = super().body()
        for name in ("tool_choice", "parallel_tool_calls", "response_format", "logprobs", "top_logprobs"):
            body.pop(name, None)
        if self.tool_choice == "none":
            body.pop("tools", None)
        limit = body.pop("max_completion_tokens", None)
        return body if limit is None else {**body, "max_tokens": limit}


class PlainFormat(BaseModel):
    """The only form of an answer there is."""

    type: Literal["text"]


class AskedText(Asked):
    """`POST /v1/completions`."""

    prompt: _NotEmpty
    echo: _No | None = None
    best_of: _One | None = None
    logprobs: _Zero | None = None
    suffix: Literal[""] | None = None

    def body(self) -> dict[str, Any]:
        """Give what transformers' handlers take of it."""
        body = super().body()
        for name in ("echo", "best_of", "logprobs", "suffix"):
            body.pop(name, None)
        return body


def read_request(kind: type[_Asked], body: dict[str, Any]) -> _Asked:
    """Check a request.

    Args:
        kind: Which.
        body: The JSON that came.

    Returns:
        The request.

    Raises:
        HTTPException: 400 with everything that is wrong with it.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        wrong = [(".".join(str(part) for part in one["loc"]), _words(one["type"], one["msg"])) for one in found]
        message = "; ".join(f"{where}: {what}" for where, what in wrong)
        raise HTTPException(400, {"message": message, "param": wrong[0][0].split(".")[0]}) from error


def _words(kind: str, otherwise: str) -> str:
    return {"extra_forbidden": "is not supported by this server", "missing": "is missing"}.get(kind, otherwise)
