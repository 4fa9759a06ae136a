"""The rules for a row of messages, and the reason why a row is refused."""

from __future__ import annotations

import pytest

from lab.chats import row
from tuneyard.data import Conversation, parse_row
from tuneyard.errors import Problem

U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}


def test_a_row_of_messages_is_a_conversation():
    made = parse_row(row("Hi", "Hello", system="Be kind."), "f:1")
    assert isinstance(made, Conversation)
    assert [(message.role, message.content) for message in made.messages] == [
        ("system", "Be kind."),
        ("user", "Hi"),
        ("assistant", "Hello"),
    ]
    assert (made.tools, made.where, made.unused) == (None, "f:1", ())


def test_fields_of_templates_are_kept_and_others_are_named():
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    made = parse_row(
        {
            "messages": [
                U | {"note": 1},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "content": "", "tool_call_id": "1"},
                A | {"note": 0, "reasoning_content": "hm"},
            ],
            "tools": [tool],
            "source": "x",
        },
        "f:1",
    )
    assert isinstance(made, Conversation)
    assert made.unused == ("source", "messages[].note")
    assert made.tools == (tool,)
    assert made.messages[1].as_dict() == {"role": "assistant", "content": "", "tool_calls": [call]}
    assert made.messages[3].as_dict()["reasoning_content"] == "hm"


def test_equal_conversations_have_one_digest_and_others_another():
    first = parse_row(row("Hi", "Hello"), "f:1")
    again = parse_row(row("Hi", "Hello") | {"source": "x"}, "g:9")
    other = parse_row(row("Hi", "Hello!"), "f:2")
    assert first.digest() == again.digest() != other.digest()
    assert len(first.digest()) == 16


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            [U, A],
            'f:7: the row is not an object (given: \'[{"role": "user", "content": "Hi"}, {"role": "assistant", "…\')',
        ),
        ({}, "f:7: the row has no messages (given: 'keys none')"),
        (
            {"conversations": [], "id": 1},
            "f:7: the row has no messages: it has the format sharegpt, but its file is read as messages "
            "(given: 'keys conversations, id'); did you mean format sharegpt?",
        ),
        ({"prompt": "a", "completion": "b"}, "f:7: the row has no messages: it has the format prompt"),
        ({"messages": "Hi"}, "f:7: messages is not a list (given: 'Hi'); allowed: a list of {role, content}"),
        ({"messages": []}, "f:7: messages is empty"),
        ({"messages": ["Hi", A]}, "f:7: messages[0] is not an object (given: 'Hi'); allowed: {role, content}"),
        (
            {"messages": [{"from": "human", "value": "Hi"}]},
            "f:7: messages[0] has no role (given: 'keys from, value'); allowed: system, user, assistant, tool; "
            "did you mean role and content instead of from and value?",
        ),
        (
            {"messages": [{"role": 1, "content": "Hi"}]},
            "f:7: messages[0].role is not text (given: '1'); allowed: system",
        ),
        (
            {"messages": [U | {"role": "human"}]},
            "f:7: messages[0] has an unknown role (given: 'human'); allowed: system",
        ),
        ({"messages": [U | {"role": "human"}]}, "did you mean user?"),
        ({"messages": [U, A | {"role": "gpt"}]}, "did you mean assistant?"),
        ({"messages": [U, A | {"role": "bot"}]}, "did you mean assistant?"),
        ({"messages": [U, A | {"role": "Asistant"}]}, "did you mean assistant?"),
        ({"messages": [U | {"role": "developer"}]}, "did you mean system?"),
        ({"messages": [U, {"role": "assistant"}]}, "f:7: messages[1] has no content (given: 'keys role')"),
        ({"messages": [{"role": "user", "value": "Hi"}]}, "did you mean content instead of value?"),
        ({"messages": [U, A | {"content": None}]}, "f:7: messages[1].content is null; allowed: text"),
        ({"messages": [U, A | {"content": 42}]}, "f:7: messages[1].content is not text (given: '42'); allowed: text"),
        ({"messages": [U, A | {"content": " \n"}]}, "f:7: messages[1].content is empty; allowed: text with"),
        (
            {"messages": [U | {"content": [{"type": "image_url"}]}, A]},
            "f:7: messages[0].content is a list of parts; only text is supported",
        ),
        ({"messages": [U, A | {"content": "a\0b"}]}, "f:7: messages[1].content contains a NUL character"),
        (
            {"messages": [U, A | {"content": "a\ud83d"}]},
            "f:7: messages[1].content contains an unpaired surrogate (given: '\\ud83d')",
        ),
        ({"messages": [U, {"role": "system", "content": "x"}, A]}, "f:7: messages[1] is a system message"),
        (
            {"messages": [U, U]},
            "f:7: no message is the assistant's, so there is nothing to train on (given: 'roles user, user')",
        ),
        ({"messages": [A, U, A]}, "f:7: the first message is the assistant's; a server always gets a user's first"),
        ({"messages": [{"role": "system", "content": "x"}, A]}, "f:7: the first message is the assistant's"),
        ({"messages": [U, A, U]}, "f:7: the last message is the user's; there is nothing to train on after it"),
        ({"messages": [U, A], "tools": {}}, "f:7: tools is not a list (given: '{}'); allowed: a list of JSON schemas"),
        ({"messages": [U | {"role": "\x1b[31mred"}]}, "(given: '\\x1b[31mred')"),
        ({"messages": [U, A], "tools": ["add"]}, "f:7: tools[0] is not an object (given: 'add')"),
    ],
)
def test_an_unusable_row_has_a_reason(given, reason):
    problem = parse_row(given, "f:7")
    assert isinstance(problem, Problem)
    assert reason in str(problem)
    assert str(problem).startswith("f:7: ")
