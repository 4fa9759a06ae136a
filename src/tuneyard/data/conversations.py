"""The content of one row of data: a conversation, or a preference between two continuations of one.

Frozen data classes. Files are `reading`'s, tokenizers `encoding`'s, and parsing rows of some format `formats`'.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant", "tool")

_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text; empty only in a tool's result, or if the assistant only calls tools.
        fields: Further fields that chat templates use (`tool_calls`, `name`, …), as given.
        trained: Whether the row marks it as trained or not (`marks`); None if it has no mark.
    """

    role: str
    content: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trained: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the message as a chat template takes it."""
        return {"role": self.role, "content": self.content, **self.fields}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row of data that can be trained on.

    Attributes:
        messages: In order; the last one is the assistant's.
        tools: JSON schemas of the functions on offer, or None.
        where: `file:line` (of Parquet `file:row`), both from 1.
        unused: Fields of the row that no chat template takes, as `name` or `messages[].name`.
        given: How many messages at the beginning are given: read but never trained, even the assistant's.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    where: str = ""
    unused: tuple[str, ...] = ()
    given: int = 0

    @property
    def answers(self) -> list[int]:
        """The indices of the messages that are trained."""
        return [number for number in self.own_answers if self.messages[number].trained is not False]

    @property
    def own_answers(self) -> list[int]:
        """The indices of the assistant's messages that are not given, whether trained or marked as not trained."""
        return [
            number
            for number, message in enumerate(self.messages)
            if number >= self.given and message.role == "assistant"
        ]

    def digest(self) -> bytes:
        """Return 16 bytes that are equal exactly for equal messages, tools and trained answers."""
        return _digest(self.tools, self.answers, self.messages)


@dataclass(frozen=True, slots=True)
class Preference:
    """One row with the better and the worse of two answers.

    Attributes:
        prompt: What both answers follow; ends with a message that isn't the assistant's.
        chosen: The better continuation; begins and ends with the assistant's messages, mostly one.
        rejected: The worse one, likewise; it differs from `chosen`.
        tools: JSON schemas of the functions on offer, or None.
        where: `file:line` (of Parquet `file:row`), both from 1.
        unused: Fields of the row that nothing reads.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    where: str = ""
    unused: tuple[str, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        """All its messages: the prompt's, then those of the chosen and of the rejected answer."""
        return (*self.prompt, *self.chosen, *self.rejected)

    @property
    def conversations(self) -> tuple[Conversation, Conversation]:
        """The prompt with the chosen answer and with the rejected one; the prompt is given in both, never trained."""
        chosen, rejected = (
            Conversation((*self.prompt, *side), self.tools, self.where, self.unused, len(self.prompt))
            for side in (self.chosen, self.rejected)
        )
        return chosen, rejected

    def digest(self) -> bytes:
        """Return 16 bytes that are equal exactly for equal prompts, answers and tools."""
        return _digest(self.tools, [], self.prompt, self.chosen, self.rejected)


def _digest(tools: tuple[dict[str, Any], ...] | None, answers: Sequence[int], *parts: Sequence[Message]) -> bytes:
    content = [tools, answers, *([message.as_dict() for message in part] for part in parts)]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def shown(value: object, longest: int = _LONGEST_VALUE) -> str:
    """Return a value for an error message: text as it is, else as JSON; one short line, safe on a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(" ".join(text[: 4 * longest].split())) or repr(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """Return text with control characters, which a terminal would interpret, escaped; those in `keep` stay."""
    return "".join(mark if mark.isprintable() or mark in keep else repr(mark)[1:-1] for mark in text)
