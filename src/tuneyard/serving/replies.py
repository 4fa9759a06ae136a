"""Answers in OpenAI's protocol: a completion as JSON, or its parts as server-sent events that end with `[DONE]`.

Reasoning is `reasoning_content` beside `content`, as most servers of open models have it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tuneyard.serving.parsing import Content, Part, Reasoning, ToolCall
from tuneyard.serving.streams import FinishReason, text_of

DONE = "data: [DONE]\n\n"
_WAITING = ": still generating\n\n"
_WAITING_SECONDS = 15.0
"""How often a stream sends a comment while no part is complete, so that neither a proxy nor a client gives it up."""


class GenerationFailed(Exception):  # noqa: N818 - carries a reason to the client
    """Raised where an answer could not be generated to its end.

    Args:
        message: Why.
        status: The status of an answer that is not a stream.
    """

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.message, self.status = message, status

    def as_dict(self) -> dict[str, Any]:
        """Return it in OpenAI's form."""
        return {"type": "server_error", "message": self.message, "param": None, "code": None}


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer has ended.

    Attributes:
        finish_reason: Why.
        prompt_tokens: The tokens of the prompt.
        completion_tokens: The tokens of the answer.
    """

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The tokens, in OpenAI's form."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True, slots=True)
class ChatReply:
    """Writes one chat completion.

    Attributes:
        identifier: Its id.
        model: The requested name.
        include_usage: Whether a stream ends with the number of tokens.
        created: When, in seconds since 1970.
    """

    identifier: str
    model: str
    include_usage: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, parts: Sequence[Part], ending: Ending) -> dict[str, Any]:
        """Write a whole answer.

        Args:
            parts: All of it.
            ending: How it has ended.
        """
        content, reasoning = text_of(parts, Content), text_of(parts, Reasoning)
        calls = [_call(part) for part in parts if isinstance(part, ToolCall)]
        message: dict[str, Any] = {"role": "assistant", "content": content if content or not calls else None}
        message |= {"reasoning_content": reasoning} if reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ending.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": ending.usage}

    def beginning(self) -> list[dict[str, Any]]:
        """Write what comes before the first part."""
        return [self._chunk({"role": "assistant", "content": ""})]

    def piece(self, part: Part, number: int) -> dict[str, Any]:
        """Write a part.

        Args:
            part: The part.
            number: How many tool calls came before it.
        """
        if isinstance(part, ToolCall):
            return self._chunk({"tool_calls": [{"index": number, **_call(part)}]})
        return self._chunk({"content" if isinstance(part, Content) else "reasoning_content": part.text})

    def end(self, ending: Ending) -> list[dict[str, Any]]:
        """Write what comes after the last part."""
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
class TextReply(ChatReply):
    """Writes one plain completion; attributes as those of a chat's."""

    def whole(self, parts: Sequence[Part], ending: Ending) -> dict[str, Any]:
        """Write a whole answer."""
        return {**self._text(text_of(parts, Content), ending.finish_reason), "usage": ending.usage}

    def beginning(self) -> list[dict[str, Any]]:
        """Write what comes before the first part: nothing."""
        return []

    def piece(self, part: Part, number: int) -> dict[str, Any]:
        """Write a part."""
        del number
        return {**self._text(text_of([part], Content), None), **self._no_usage()}

    def end(self, ending: Ending) -> list[dict[str, Any]]:
        """Write what comes after the last part."""
        last = {**self._text("", ending.finish_reason), **self._no_usage()}
        usage = {**self._head("text_completion"), "choices": [], "usage": ending.usage}
        return [last, usage] if self.include_usage else [last]

    def _no_usage(self) -> dict[str, Any]:
        return {"usage": None} if self.include_usage else {}

    def _text(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head("text_completion"), "choices": [choice]}


async def events(
    reply: ChatReply, parts: AsyncGenerator[Part | Ending], *, waiting_seconds: float = _WAITING_SECONDS
) -> AsyncIterator[str]:
    """Write an answer as server-sent events.

    Args:
        reply: Writes them.
        parts: The answer, and how it has ended; closed where nobody reads on.
        waiting_seconds: After how long without a part a comment is sent.

    Yields:
        Events, whole ones.
    """
    for chunk in reply.beginning():
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
                for chunk in reply.end(part):
                    yield _event(chunk)
                break
            yield _event(reply.piece(part, calls))
            calls += isinstance(part, ToolCall)
    except GenerationFailed as error:
        yield _event({"error": error.as_dict()})
    finally:
        if pending:
            pending.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration, GenerationFailed):
                await pending
        await parts.aclose()
    yield DONE


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.identifier, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _event(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
