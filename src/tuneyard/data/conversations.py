"""A conversation: the messages one row of data holds, and why a row isn't one.

Pure: no files, no tokenizer. `reading` turns files into rows and calls `parse_row` for each; what only a chat template
can refuse (roles that must alternate, tools it can't render) is told by `encoding`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, cast

from tuneyard.errors import Problem

ROLES = ("system", "user", "assistant", "tool")

_MEANT_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
}
_MEANT_KEYS = {"conversations", "conversation", "message", "dialog", "dialogue", "chat", "turns"}
# Message fields that chat templates know; whether a model's own template uses them is checked when it is rendered.
_TEMPLATE_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: The words; empty only in a tool's answer, or where the assistant does nothing but call tools.
        fields: Further fields that chat templates know (`tool_calls`, `name`, …), as given.
    """

    role: str
    content: str
    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_dict(self) -> dict[str, Any]:
        """Return the message as a chat template takes it."""
        return {"role": self.role, "content": self.content, **self.fields}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One row of data that can be learnt from.

    Attributes:
        messages: In order; the last one is the assistant's.
        tools: JSON schemas of the functions on offer, or None.
        where: `file:line` (of Parquet `file:row`), both from 1.
        unused: Fields of the row that no chat template takes, as `name` or `messages[].name`.
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None
    where: str = ""
    unused: tuple[str, ...] = ()

    def digest(self) -> bytes:
        """Return 16 bytes that are equal exactly for equal messages and tools, wherever they come from."""
        content = {"messages": [message.as_dict() for message in self.messages], "tools": self.tools}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).digest()


class _Refused(Exception):  # noqa: N818 - carries a reason from the inner checks to `parse_row`, never further
    def __init__(self, what: str, value: object = None, *, allowed: str = "", suggestion: str = "") -> None:
        super().__init__(what)
        self.problem_fields = {
            "what": what,
            "value": "" if value is None else shown(value),
            "allowed": allowed,
            "suggestion": suggestion,
        }


def parse_row(row: object, where: str) -> Conversation | Problem:
    """Make a conversation of one parsed row, or say why it isn't one.

    Args:
        row: What the JSON or Parquet row holds.
        where: `file:line`, for messages.

    Returns:
        The conversation; or a `Problem` with the first reason why the row can't be used.
    """
    try:
        return _conversation(row, where)
    except _Refused as refused:
        return Problem(where, **refused.problem_fields)


def shown(value: object, longest: int = _LONGEST_VALUE) -> str:
    """Return a value for a message: text as it is, else as JSON; one line, not long, safe on a terminal."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = printable(" ".join(text[: 4 * longest].split())) or repr(text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def printable(text: str, keep: str = "") -> str:
    """Return text with control characters, which a terminal would act on, as their escapes; those in `keep` stay."""
    return "".join(mark if mark.isprintable() or mark in keep else repr(mark)[1:-1] for mark in text)


def _conversation(row: object, where: str) -> Conversation:
    if not isinstance(row, dict):
        raise _Refused("the row is not an object", row, allowed='{"messages": [...]}')
    row = cast("dict[str, Any]", row)
    given = _messages_of(row)
    unused = [key for key in row if key not in ("messages", "tools")]
    messages: list[Message] = []
    for number, item in enumerate(given):
        message, unknown = _message(item, number)
        messages.append(message)
        unused.extend(name for name in (f"messages[].{key}" for key in unknown) if name not in unused)
    _check_order(messages)
    return Conversation(tuple(messages), _tools_of(row), where, tuple(unused))


def _messages_of(row: dict[str, Any]) -> list[Any]:
    if "messages" not in row:
        meant = next((key for key in row if key.lower() in _MEANT_KEYS), None)
        keys = ", ".join(row) or "none"
        raise _Refused(
            "the row has no messages",
            f"keys {keys}",
            suggestion=f"messages instead of {meant}" if meant else "",
        )
    messages = row["messages"]
    if not isinstance(messages, list):
        raise _Refused("messages is not a list", messages, allowed="a list of {role, content}")
    if not messages:
        raise _Refused("messages is empty")
    return cast("list[Any]", messages)


def _tools_of(row: dict[str, Any]) -> tuple[dict[str, Any], ...] | None:
    tools = row.get("tools")
    if tools is None or tools == []:
        return None
    if not isinstance(tools, list):
        raise _Refused("tools is not a list", tools, allowed="a list of JSON schemas")
    schemas: list[dict[str, Any]] = []
    for number, tool in enumerate(cast("list[Any]", tools)):
        if not isinstance(tool, dict):
            raise _Refused(f"tools[{number}] is not an object", tool, allowed="a JSON schema")
        schemas.append(cast("dict[str, Any]", tool))
    return tuple(schemas)


def _message(item: object, number: int) -> tuple[Message, list[str]]:
    name = f"messages[{number}]"
    if not isinstance(item, dict):
        raise _Refused(f"{name} is not an object", item, allowed="{role, content}")
    item = cast("dict[str, Any]", item)
    role = _role_of(item, name)
    fields = {key: item[key] for key in _TEMPLATE_FIELDS if item.get(key) not in (None, "", [])}
    only_calls = role == "assistant" and "tool_calls" in fields
    content = _content_of(item, name, may_be_empty=only_calls or role == "tool")
    unknown = [key for key in item if key not in ("role", "content", *_TEMPLATE_FIELDS)]
    return Message(role, content, fields), unknown


def _role_of(item: dict[str, Any], name: str) -> str:
    allowed = ", ".join(ROLES)
    if "role" not in item:
        meant = "role and content instead of from and value" if "from" in item else ""
        raise _Refused(f"{name} has no role", f"keys {', '.join(item) or 'none'}", allowed=allowed, suggestion=meant)
    role = item["role"]
    if not isinstance(role, str):
        raise _Refused(f"{name}.role is not text", role, allowed=allowed)
    if role not in ROLES:
        close = get_close_matches(role.strip().lower(), ROLES, n=1)
        meant = _MEANT_ROLES.get(role.strip().lower(), close[0] if close else "")
        raise _Refused(f"{name} has an unknown role", role, allowed=allowed, suggestion=meant)
    return role


def _content_of(item: dict[str, Any], name: str, *, may_be_empty: bool) -> str:
    content = item.get("content")
    if content is None:
        if may_be_empty:
            return ""
        if "content" in item:
            raise _Refused(f"{name}.content is null", allowed="text")
        raise _Refused(
            f"{name} has no content",
            f"keys {', '.join(item)}",
            suggestion="content instead of value" if "value" in item else "",
        )
    if isinstance(content, list):
        raise _Refused(f"{name}.content is a list of parts; only text can be learnt", content, allowed="text")
    if not isinstance(content, str):
        raise _Refused(f"{name}.content is not text", content, allowed="text")
    if not content.strip() and not may_be_empty:
        raise _Refused(f"{name}.content is empty", allowed="text with at least one character that isn't a space")
    _check_characters(content, name)
    return content


def _check_characters(content: str, name: str) -> None:
    if "\0" in content:
        raise _Refused(f"{name}.content holds a NUL character", allowed="text without \\u0000")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(content[error.start]):04x}"
        raise _Refused(
            f"{name}.content holds half of a surrogate pair", half, allowed="whole Unicode characters"
        ) from None


def _check_order(messages: list[Message]) -> None:
    roles = [message.role for message in messages]
    for number, role in enumerate(roles):
        if role == "system" and number > 0:
            raise _Refused(f"messages[{number}] is a system message, which only the first can be")
    if "assistant" not in roles:
        raise _Refused("no message is the assistant's, so there is nothing to learn", f"roles {', '.join(roles)}")
    first = roles[1] if roles[0] == "system" and len(roles) > 1 else roles[0]
    if first == "assistant":
        raise _Refused("the assistant speaks first; a server is always asked first", f"roles {', '.join(roles)}")
    if roles[-1] != "assistant":
        raise _Refused(
            f"the last message is the {roles[-1]}'s; nothing after it can be learnt",
            f"roles {', '.join(roles)}",
            allowed="an assistant's message at the end",
        )
