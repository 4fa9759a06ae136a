"""The formats of rows of data, detected by their fields, each parsed into a conversation or a preference.

    messages           {"messages": [{role, content}], "tools"?}                       OpenAI's, tool calls included
    sharegpt           {"conversations": [{from, value}], "system"?, "tools"?}
    prompt-completion  {"prompt", "completion"}                                        text, or lists of messages
    alpaca             {"instruction", "input"?, "output", "system"?, "history"?}
    preference         {"chosen", "rejected", "prompt"?}                               see `preferences`

A file has one format: `detect` inspects one row, `reading` the first rows of a file. The problem of a row that can't be
used names the row's own fields. Pure: no files, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, get_args

from tuneyard.data.conversations import ROLES, Conversation, Message, Preference
from tuneyard.data.marks import MARKS, NUMBERS
from tuneyard.data.messages import (
    Refused,
    calls_of,
    check_messages,
    listed,
    messages_of,
    parsed,
    text_of,
    tools_of,
    trained_of,
    unknown_role,
)
from tuneyard.data.preferences import SIDES, preference, transcript
from tuneyard.errors import Problem

Format = Literal["messages", "sharegpt", "prompt-completion", "alpaca", "preference"]
FORMATS: tuple[Format, ...] = get_args(Format)

SHAREGPT_ROLES: Mapping[str, str] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool": "tool",
}
"""The roles of `from`; a `function_call` is an assistant's message that only calls tools."""

_TURNS = ("conversations", "conversation", "messages")
_INPUTS = ("input", "context")
_OUTPUTS = ("output", "response", "completion")
_PAIRS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"))
_MEANT_KEYS = {"conversations", "conversation", "message", "dialog", "dialogue", "chat", "turns"}


def detect(row: object) -> Format | None:
    """Detect the format of one parsed row by its fields; None if it is unknown."""
    if not isinstance(row, dict):
        return None
    row = cast("dict[str, Any]", row)
    if all(side in row for side in SIDES):
        return "preference"
    if "messages" in row:
        return "sharegpt" if _has_from_turns(row["messages"]) else "messages"
    if _first(row, _TURNS):
        return "sharegpt"
    if "instruction" in row and _first(row, _OUTPUTS):
        return "alpaca"
    return "prompt-completion" if _pair_of(row) else None


def parse_row(row: object, where: str, format: Format = "messages") -> Conversation | Preference | Problem:
    """Turn one parsed row into a conversation or a preference, or the problem with it.

    Args:
        row: The content of the JSON or Parquet row.
        where: `file:line`, for messages.
        format: The format of its file.

    Returns:
        The conversation or preference; or a `Problem` with the first reason why the row can't be used.
    """
    try:
        if not isinstance(row, dict):
            raise Refused("the row is not an object", row, allowed='{"messages": [...]}')
        row = cast("dict[str, Any]", row)
        if format == "preference":
            return _preference(row, where)
        made = _BUILDERS[format](row, where)
        check_messages(made.messages, made.tools)
    except Refused as refused:
        return Problem(where, **refused.problem_fields)
    return made


def _from_messages(row: dict[str, Any], where: str) -> Conversation:
    if "messages" not in row:
        raise _other_format("the row has no messages", row, "messages")
    messages, unused = messages_of(row["messages"], "messages")
    return _conversation(row, where, messages, ("messages", "tools"), unused)


def _from_sharegpt(row: dict[str, Any], where: str) -> Conversation:
    name = _first(row, _TURNS)
    if name is None:
        raise _other_format("the row has no conversations", row, "sharegpt")
    messages, unused = _turns_of(row[name], name)
    return _conversation(row, where, _with_system(row, messages), (name, "system", "tools"), unused)


def _from_prompt_completion(row: dict[str, Any], where: str) -> Conversation:
    names = _pair_of(row)
    if names is None:
        raise _other_format("the row has no prompt and completion", row, "prompt-completion")
    if isinstance(row.get("label"), bool):
        raise Refused(
            "the row rates its completion (label), which is not supported",
            row["label"],
            allowed="good completions without label, or chosen and rejected",
        )
    prompt, completion = names
    before, unused = _messages_of_side(row[prompt], prompt, "user")
    after, more = _messages_of_side(row[completion], completion, "assistant")
    for number, message in enumerate(after):
        if message.role in ("system", "user") and number == 0:
            raise Refused(f"{completion} begins with the {message.role}'s message", allowed="the assistant's")
    made = _conversation(
        row, where, _with_system(row, [*before, *after]), (prompt, completion, "system", "tools"), unused + more
    )
    given = len(made.messages) - len(after)
    return Conversation(made.messages, made.tools, where, made.unused, given)


def _from_alpaca(row: dict[str, Any], where: str) -> Conversation:
    output, details = _first(row, _OUTPUTS), _first(row, _INPUTS)
    if "instruction" not in row or output is None:
        raise _other_format("the row has no instruction and output", row, "alpaca")
    question = text_of(row["instruction"], "instruction")
    if details is not None and text_of(row[details], details, may_be_empty=True).strip():
        question = f"{question}\n{row[details]}"
    history = _history(row.get("history") or [])
    messages = [*history, Message("user", question), Message("assistant", text_of(row[output], output))]
    taken = ("instruction", details, output, "system", "history", "tools")
    return _conversation(row, where, _with_system(row, messages), taken)


def _preference(row: dict[str, Any], where: str) -> Preference:
    if not all(side in row for side in SIDES):
        raise _other_format("the row has no chosen and rejected", row, "preference")
    names = ("prompt", "question", *_TURNS, "instruction")
    field = _first(row, names)
    prompt: list[Message] | None = None
    taken: list[str | None] = [*SIDES, field, "system", "tools"]
    unused: list[str] = []
    if field == "instruction":
        details = _first(row, _INPUTS)
        taken.append(details)
        question = text_of(row["instruction"], "instruction")
        more = text_of(row[details], details, may_be_empty=True) if details else ""
        prompt = [Message("user", f"{question}\n{more}" if more.strip() else question)]
    elif field in _TURNS:
        prompt, unused = _turns_of(row[field], field)
    elif field is not None:
        prompt, unused = _messages_of_side(row[field], field, "user")
    if row.get("system"):
        prompt = _with_system(row, prompt or [])
    sides: list[list[Message]] = []
    for side in SIDES:
        whole = transcript(row[side]) if field is None and isinstance(row[side], str) else None
        messages, more_unused = (whole, []) if whole else _messages_of_side(row[side], side, "assistant")
        sides.append(messages)
        unused += more_unused
    rest = _conversation(row, where, [], taken, unused)
    return preference(prompt, sides, rest)


_BUILDERS: Mapping[str, Callable[[dict[str, Any], str], Conversation]] = {
    "messages": _from_messages,
    "sharegpt": _from_sharegpt,
    "prompt-completion": _from_prompt_completion,
    "alpaca": _from_alpaca,
}


def _conversation(
    row: dict[str, Any],
    where: str,
    messages: Sequence[Message],
    taken: Collection[str | None],
    unused_inside: Sequence[str] = (),
) -> Conversation:
    _refuse_marked(row)
    legacy = "functions" if "functions" in row and "tools" not in row else "tools"
    tools = tools_of(row.get(legacy), legacy)
    unused = [key for key in row if key not in taken and key != legacy]
    return Conversation(tuple(messages), tools, where, tuple(dict.fromkeys([*unused, *unused_inside])))


def _refuse_marked(row: Mapping[str, Any]) -> None:
    """Refuse a row that is marked as a whole: marks apply to messages, and ignoring it would train the row."""
    for key in MARKS:
        value = row.get(key)
        if value is False or (key in NUMBERS and not isinstance(value, bool) and value == 0):
            raise Refused(f"the row is marked by {key} as not trained", value, allowed="rows to train on")


def _other_format(what: str, row: dict[str, Any], wanted: Format) -> Refused:
    found = detect(row)
    if found not in (None, wanted):
        return Refused(
            f"{what}: it has the format {found}, but its file is read as {wanted}",
            f"keys {', '.join(row)}",
            suggestion=f"format {found}",
        )
    meant = next((key for key in row if key.lower() in _MEANT_KEYS), None) if wanted == "messages" else None
    keys = ", ".join(row) or "none"
    return Refused(what, f"keys {keys}", suggestion=f"messages instead of {meant}" if meant else "")


def _turns_of(value: object, name: str) -> tuple[list[Message], list[str]]:
    """Read a list of `{from, value}` or `{role, content}`, with roles of either kind."""
    messages: list[Message] = []
    unused: list[str] = []
    for number, item in enumerate(listed(value, name, "{from, value}")):
        where = f"{name}[{number}]"
        if not isinstance(item, dict):
            raise Refused(f"{where} is not an object", item, allowed="{from, value}")
        turn = cast("dict[str, Any]", item)
        speaker, text = ("from", "value") if "from" in turn else ("role", "content")
        given_role = turn.get(speaker)
        if not isinstance(given_role, str):
            raise Refused(f"{where} has no speaker", f"keys {', '.join(turn) or 'none'}", allowed="{from, value}")
        if speaker == "role" and given_role in ROLES:
            read, more = messages_of([turn], name)
            messages += read
            unused += more
            continue
        if given_role not in SHAREGPT_ROLES:
            raise unknown_role(where, given_role, SHAREGPT_ROLES)
        messages.append(replace(_turn(turn, given_role, f"{where}.{text}", text), trained=trained_of(turn, where)))
        unused += [f"{name}[].{key}" for key in turn if key not in (speaker, text, *MARKS)]
    return messages, list(dict.fromkeys(unused))


def _turn(turn: dict[str, Any], given_role: str, name: str, key: str) -> Message:
    role = SHAREGPT_ROLES[given_role]
    if given_role != "function_call":
        return Message(role, text_of(turn.get(key), name, may_be_empty=role == "tool"))
    given: Any = turn.get(key)
    calls = parsed(given, name) if isinstance(given, str) else given
    calls = cast("list[Any]", calls) if isinstance(calls, list) else [calls]
    return Message(role, "", {"tool_calls": [_complete_call(call) for call in calls_of(calls, name)]})


def _complete_call(call: dict[str, Any]) -> dict[str, Any]:
    return call if "function" in call else {"type": "function", "function": call}


def _messages_of_side(value: object, name: str, role: str) -> tuple[list[Message], list[str]]:
    """Read one side: text, one message, or a list of messages."""
    if isinstance(value, str):
        return [Message(role, text_of(value, name))], []
    items: Any = [value] if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise Refused(f"{name} is neither text nor messages", value, allowed="text, or a list of {role, content}")
    return _turns_of(cast("list[Any]", items), name) if _has_from_turns(items) else messages_of(items, name)


def _history(value: object) -> list[Message]:
    messages: list[Message] = []
    for number, pair in enumerate(cast("list[Any]", value) if isinstance(value, list) else [value]):
        name = f"history[{number}]"
        if not isinstance(pair, list | tuple) or len(cast("Sequence[Any]", pair)) != 2:
            raise Refused(f"{name} is not a pair", pair, allowed="[question, answer]")
        question, answer = cast("Sequence[Any]", pair)
        messages.append(Message("user", text_of(question, f"{name}[0]")))
        messages.append(Message("assistant", text_of(answer, f"{name}[1]")))
    return messages


def _with_system(row: dict[str, Any], messages: list[Message]) -> list[Message]:
    system = text_of(row.get("system"), "system", may_be_empty=True)
    if not system.strip():
        return messages
    if messages and messages[0].role == "system":
        raise Refused("has two system messages: system, and the first one of the conversation", system)
    return [Message("system", system), *messages]


def _has_from_turns(value: object) -> bool:
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return bool(items) and isinstance(items[0], dict) and "from" in items[0] and "role" not in items[0]


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in row), None)


def _pair_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((pair for pair in _PAIRS if all(name in row for name in pair)), None)
