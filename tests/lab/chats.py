"""Shorthands for conversations in tests, and the data settings of a training on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuneyard.data import Conversation, Message


@dataclass(frozen=True)
class DataConf:
    chat_template_name: str = "keep-original"
    missing_pad_token_strategy: str = "bos-repurpose"


def row(*contents: str, system: str | None = None) -> dict[str, Any]:
    """Return a row in which user and assistant take turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[number % 2], "content": content} for number, content in enumerate(contents)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages}


def chat(*contents: str, system: str | None = None, where: str = "rows.jsonl:1") -> Conversation:
    """Return the same turns as a `Conversation`."""
    messages = row(*contents, system=system)["messages"]
    return Conversation(tuple(Message(item["role"], item["content"]) for item in messages), where=where)
