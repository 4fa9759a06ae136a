"""Responses of OpenAI's protocol: a whole completion, or its parts as server-sent events that end with `[DONE]`.

Reasoning is `reasoning_content` beside `content`, as most servers of open models have it. Written from the parts that
`answers` reads; `app` sends them.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from tuneyard.serving.answers.parsing import Content, Part, Reasoning, ToolCall
from tuneyard.serving.answers.reader import FinishReason, text_of
from tuneyard.serving.errors import GenerationError

DONE = "data: [DONE]\n\n"
_WAITING = ": still generating\n\n"
_WAITING_SECONDS = 15.0
"""How often a stream sends a comment while no part is complete, so that neither proxy nor client times out."""


class ModelCard(BaseModel):
    """A model that is served, in OpenAI's shape; an adapter names its base as vLLM does."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tuneyard"
    parent: str | None
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of an answer.

    Attributes:
        finish_reason: Why it ended.
        prompt_tokens: The number of tokens of the prompt.
        completion_tokens: The number of tokens of the answer.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The token counts, in OpenAI's shape."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """Writes one chat completion.

    Attributes:
        identifier: Its id.
        model: The requested name.
        include_usage: Whether a stream ends with the number of tokens.
        created: The time of its creation, in seconds since 1970.
    """

    identifier: str
    model: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, parts: Sequence[Part], ending: Ending) -> dict[str, Any]:
        """Write a whole completion.

        Args:
            parts: All parts of the answer.
            ending: Its end.

        Returns:
            The fields of a `ChatCompletion` that are set.
        """
        content, reasoning = text_of(parts, Content), text_of(parts, Reasoning)
        calls = [_call(part) for part in parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
        message |= {"reasoning_content": reasoning} if reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": ending.usage}

    def beginning(self) -> list[dict[str, Any]]:
        """Write the chunks before the first part."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, part: Part, number: int) -> dict[str, Any]:
        """Write the chunk of a part.

        Args:
            part: The part.
            number: How many tool calls came before it.
        """
        if isinstance(part, ToolCall):
            return self._chunk({"tool_calls": [{"index": number, **_call(part)}]})
        return self._chunk({"content" if isinstance(part, Content) else "reasoning_content": part.text})

    def end(self, ending: Ending) -> list[dict[str, Any]]:
        """Write the chunks after the last part."""
        last = self._chunk({}, ending.finish_reason)
        usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": ending.usage}
        return [last, usage] if self.include_usage else [last]

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identifier, "object": kind, "created": self.created, "model": self.model}


@dataclass(frozen=True, slots=True)
class TextResponse(ChatResponse):
    """Writes one plain completion; the attributes are those of a chat's."""

    def whole(self, parts: Sequence[Part], ending: Ending) -> dict[str, Any]:
        """Write a whole completion."""
        return {**self._text(text_of(parts, Content), ending.finish_reason), "usage": ending.usage}

    def beginning(self) -> list[dict[str, Any]]:
        """Write the chunks before the first part: none."""
        return []

    def piece(self, part: Part, number: int) -> dict[str, Any]:
        """Write the chunk of a part."""
        del number
        return {**self._text(text_of([part], Content), None), **self._no_usage()}

    def end(self, ending: Ending) -> list[dict[str, Any]]:
        """Write the chunks after the last part."""
        last = {**self._text("", ending.finish_reason), **self._no_usage()}
        usage = {**self._head("text_completion"), "choices": [], "usage": ending.usage}
        return [last, usage] if self.include_usage else [last]

    def _no_usage(self) -> dict[str, Any]:
        return {"usage": None} if self.include_usage else {}

    def _text(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("text_completion"), "choices": [choice]}


def new_identifier(prefix: str) -> str:
    """Make the id of a response.

    Args:
        prefix: What it begins with, such as `chatcmpl`.
    """
    return f"{prefix}-{uuid.uuid4().hex}"


async def events(
    response: ChatResponse, parts: AsyncGenerator[Part | Ending], *, waiting_seconds: float = _WAITING_SECONDS
) -> AsyncIterator[str]:
    """Write an answer as server-sent events (WHATWG's HTML standard, section 9.2).

    Args:
        response: Writes the chunks.
        parts: The parts of the answer and its end; closed when the client stops reading.
        waiting_seconds: The time without a part after which a comment is sent.

    Yields:
        Whole events.
    """
    for chunk in response.beginning():
        yield _event(chunk)
    calls = 0
    pending: asyncio.Task[Part | Ending] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(parts))
            done, _ = await asyncio.wait({pending}, timeout=waiting_seconds)
            if not done:
                yield _WAITING
                continue
            part, pending = pending.result(), None
            if isinstance(part, Ending):
                for chunk in response.end(part):
                    yield _event(chunk)
                break
            yield _event(response.piece(part, calls))
            calls += isinstance(part, ToolCall)
    except GenerationError as error:
        yield _event(error.response.model_dump())
    finally:
        if pending:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, GenerationError):
                await pending
        await parts.aclose()
    yield DONE


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.identifier, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
