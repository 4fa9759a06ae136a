"""The rules for one message, a list of messages and a list of tools, each with its reason.

Pure, and the same for every format of rows: the names in the reasons are the row's own (`messages[1].content`,
`conversations[1].value`, `output`). What only a chat template can refuse (roles that must alternate, tools it can't
render) is checked by `encoding`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, cast

from tuneyard.data.conversations import ROLES, Message, shown
from tuneyard.data.marks import MARKS, UnclearMarkError, mark_of

MEANT_ROLES: Mapping[str, str] = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "developer": "system",
    "function": "tool",
    "observation": "tool",
    "function_call": "assistant",
    **{
        name: role
        for role, names in {
            "user": "benutzer nutzer utilisateur usuario usuário utente gebruiker kullanıcı пользователь 用户 ユーザー",
            "assistant": "assistent asistente assistente asistan ассистент помощник 助手 アシスタント 어시스턴트",
            "system": "système systeem sistema система 系统 系統 システム 시스템",
            "tool": "werkzeug outil herramienta strumento инструмент 工具 ツール",
        }.items()
        for name in names.split()
    },
}
"""Names that other tools and languages use for the roles. If a format doesn't define them, they are reported, never
converted silently: a file with two names for a role is nearly always two files in one."""

# Message fields that chat templates know; whether a model's own template uses them is checked when it is rendered.
TEMPLATE_FIELDS = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")


class Refused(Exception):  # noqa: N818 - carries a reason from the inner checks to `formats.parse_row`, never further
    """Raised if a row can't be used, with the fields of its `Problem`."""

    def __init__(self, what: str, value: object = None, *, allowed: str = "", suggestion: str = "") -> None:
        super().__init__(what)
        self.problem_fields = {
            "what": what,
            "value": "" if value is None else shown(value),
            "allowed": allowed,
            "suggestion": suggestion,
        }


def messages_of(value: object, name: str) -> tuple[list[Message], list[str]]:
    """Read a list of `{role, content}`.

    Args:
        value: The row's value.
        name: Its name in the row.

    Returns:
        The messages, and the unused fields in them, as `name[].field`.

    Raises:
        Refused: With the first reason why it can't be used.
    """
    messages: list[Message] = []
    unused: list[str] = []
    for number, item in enumerate(listed(value, name)):
        message, unknown = _message(item, f"{name}[{number}]")
        messages.append(message)
        unused.extend(f"{name}[].{key}" for key in unknown)
    return messages, list(dict.fromkeys(unused))


def listed(value: object, name: str, items: str = "{role, content}") -> list[Any]:
    """Return a list that must not be empty.

    Raises:
        Refused: If it is not a list, or empty.
    """
    if not isinstance(value, list):
        raise Refused(f"{name} is not a list", value, allowed=f"a list of {items}")
    if not value:
        raise Refused(f"{name} is empty")
    return cast("list[Any]", value)


def text_of(value: object, name: str, *, may_be_empty: bool = False) -> str:
    """Return text that can be trained on.

    Args:
        value: The row's value; null counts as empty if `may_be_empty`.
        name: Its name in the row.
        may_be_empty: Whether it may be blank.

    Raises:
        Refused: If it is not text, is empty, or contains characters that no tokenizer can read.
    """
    if value is None:
        if may_be_empty:
            return ""
        raise Refused(f"{name} is null", allowed="text")
    if isinstance(value, list):
        raise Refused(f"{name} is a list of parts; only text is supported", value, allowed="text")
    if not isinstance(value, str):
        raise Refused(f"{name} is not text", value, allowed="text")
    if not value.strip() and not may_be_empty:
        raise Refused(f"{name} is empty", allowed="text with at least one character that isn't a space")
    _check_characters(value, name)
    return value


def tools_of(value: object, name: str = "tools") -> tuple[dict[str, Any], ...] | None:
    """Read the available functions: a list of JSON schemas, or the same as JSON text (as in Arrow files).

    Raises:
        Refused: If it is neither, or a function has no name.
    """
    if isinstance(value, str):
        value = parsed(value, name) if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise Refused(f"{name} is not a list", value, allowed="a list of JSON schemas")
    schemas: list[dict[str, Any]] = []
    for number, tool in enumerate(cast("list[Any]", value)):
        if not isinstance(tool, dict):
            raise Refused(f"{name}[{number}] is not an object", tool, allowed="a JSON schema")
        schema = cast("dict[str, Any]", tool)
        if "name" in schema and "function" not in schema:
            # Servers pass templates OpenAI's form only.
            schema = {"type": "function", "function": schema}
        function: Any = schema.get("function")
        called: Any = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
        if not isinstance(called, str) or not called:
            raise Refused(f"{name}[{number}] names no function", schema, allowed="{type: function, function: {name}}")
        schemas.append(schema)
    return tuple(schemas)


def parsed(text: str, name: str) -> Any:
    """Parse JSON text.

    Raises:
        Refused: If it is not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{name} is text that is not JSON", text, allowed="JSON") from error


def check_messages(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Check a list of messages as a whole: the order of roles, and that called tools are available.

    Raises:
        Refused: With the first rule that is violated.
    """
    _check_order(messages)
    if any("tool_calls" in message.fields or message.role == "tool" for message in messages):
        _check_calls(messages, tools)


def _message(item: object, name: str) -> tuple[Message, list[str]]:
    if not isinstance(item, dict):
        raise Refused(f"{name} is not an object", item, allowed="{role, content}")
    item = cast("dict[str, Any]", item)
    role = _role_of(item, name)
    fields = {key: item[key] for key in TEMPLATE_FIELDS if item.get(key) not in (None, "", [])}
    if "tool_calls" in fields:
        if role != "assistant":
            raise Refused(f"{name}.tool_calls are the {role}'s", allowed="tool_calls of the assistant")
        fields["tool_calls"] = calls_of(fields["tool_calls"], f"{name}.tool_calls")
    if "content" not in item and role != "tool" and "tool_calls" not in fields:
        raise Refused(
            f"{name} has no content",
            f"keys {', '.join(item)}",
            suggestion="content instead of value" if "value" in item else "",
        )
    content = text_of(item.get("content"), f"{name}.content", may_be_empty="tool_calls" in fields or role == "tool")
    unknown = [key for key in item if key not in ("role", "content", *TEMPLATE_FIELDS, *MARKS)]
    return Message(role, content, fields, trained_of(item, name)), unknown


def trained_of(item: Mapping[str, Any], name: str) -> bool | None:
    """Read whether a message is marked as trained or not; see `marks`.

    Raises:
        Refused: If a mark is neither yes nor no.
    """
    try:
        return mark_of(item, name)
    except UnclearMarkError as error:
        raise Refused(error.what, error.value, allowed=error.allowed) from error


def calls_of(value: object, name: str) -> list[dict[str, Any]]:
    """Read calls of tools, in OpenAI's form or as bare `{name, arguments}`; arguments are an object, or one as text.

    Raises:
        Refused: If one is neither.
    """
    calls: list[dict[str, Any]] = []
    for number, given in enumerate(listed(value, name, "{function: {name, arguments}}")):
        where = f"{name}[{number}]"
        if not isinstance(given, dict):
            raise Refused(f"{where} is not an object", given, allowed="{function: {name, arguments}}")
        call = cast("dict[str, Any]", given)
        function: Any = call.get("function", call)
        called: Any = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
        if not isinstance(called, str) or not called:
            raise Refused(f"{where} names no function", call, allowed="{function: {name, arguments}}")
        arguments: Any = cast("dict[str, Any]", function).get("arguments")
        if isinstance(arguments, str) and arguments.strip():
            arguments = parsed(arguments, f"{where}.function.arguments")
        if not isinstance(arguments, dict) and arguments not in (None, ""):
            raise Refused(f"{where}.function.arguments are not an object", arguments, allowed="an object, or its text")
        calls.append(call)
    return calls


def _role_of(item: Mapping[str, Any], name: str) -> str:
    allowed = ", ".join(ROLES)
    if "role" not in item:
        meant = "role and content instead of from and value" if "from" in item else ""
        raise Refused(f"{name} has no role", f"keys {', '.join(item) or 'none'}", allowed=allowed, suggestion=meant)
    role = item["role"]
    if not isinstance(role, str):
        raise Refused(f"{name}.role is not text", role, allowed=allowed)
    if role not in ROLES:
        raise unknown_role(name, role, ROLES)
    return role


def unknown_role(name: str, role: str, allowed: Iterable[str]) -> Refused:
    """Return the refusal of an unknown role, with the most likely one."""
    close = get_close_matches(role.strip().lower(), ROLES, n=1)
    meant = MEANT_ROLES.get(role.strip().lower(), close[0] if close else "")
    return Refused(f"{name} has an unknown role", role, allowed=", ".join(allowed), suggestion=meant)


def _check_characters(content: str, name: str) -> None:
    if "\0" in content:
        raise Refused(f"{name} contains a NUL character", allowed="text without \\u0000")
    try:
        content.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(content[error.start]):04x}"
        raise Refused(f"{name} contains an unpaired surrogate", half, allowed="valid Unicode") from None


def _check_order(messages: Sequence[Message]) -> None:
    roles = [message.role for message in messages]
    for number, role in enumerate(roles):
        if role == "system" and number > 0:
            raise Refused(f"messages[{number}] is a system message, which only the first message can be")
    if "assistant" not in roles:
        raise Refused("no message is the assistant's, so there is nothing to train on", f"roles {', '.join(roles)}")
    first = roles[1] if roles[0] == "system" and len(roles) > 1 else roles[0]
    if first == "assistant":
        raise Refused(
            "the first message is the assistant's; a server always gets a user's first", f"roles {', '.join(roles)}"
        )
    if roles[-1] != "assistant":
        raise Refused(
            f"the last message is the {roles[-1]}'s; there is nothing to train on after it",
            f"roles {', '.join(roles)}",
            allowed="an assistant's message at the end",
        )


def _check_calls(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None) -> None:
    offered = [str(tool["function"]["name"]) for tool in tools or ()]
    made: set[str] = set()
    for number, message in enumerate(messages):
        for call in message.fields.get("tool_calls", ()):
            called = call.get("function", call)["name"]
            if offered and called not in offered:
                raise Refused(
                    f"messages[{number}] calls a function that is not among the tools",
                    called,
                    allowed=", ".join(offered),
                    suggestion=next(iter(get_close_matches(called, offered, n=1)), ""),
                )
            made.add(str(call.get("id") or ""))
        answered = message.fields.get("tool_call_id")
        if answered and any(made) and str(answered) not in made:
            known = ", ".join(sorted(filter(None, made)))
            raise Refused(f"messages[{number}] answers a tool call that was never made", answered, allowed=known)
