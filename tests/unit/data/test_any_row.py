"""Parsing any row returns a conversation, a preference or one problem, and never raises."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tuneyard.data import FORMATS, Conversation, Preference, detect, parse_row
from tuneyard.errors import Problem

TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
QUESTION = {"role": "user", "content": "Hi"}
TURNS = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1"}]
ANSWER, OTHER = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "No"}
SHARED = [
    {"from": "human", "value": "Hi"},
    {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
    {"from": "observation", "value": "1"},
    {"from": "gpt", "value": "Hello"},
]
ROWS: list[Any] = [
    {"messages": [*TURNS, ANSWER], "tools": [TOOL]},
    {"messages": [QUESTION, ANSWER], "functions": [{"name": "f"}]},
    {"conversations": SHARED, "system": "s", "tools": '[{"name": "f"}]'},
    {"prompt": [QUESTION], "completion": [ANSWER]},
    {"prompt": "Hi", "completion": "Hello", "system": "s"},
    {"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]], "system": "s"},
    {"prompt": [*TURNS, ANSWER, QUESTION], "chosen": [ANSWER], "rejected": OTHER, "tools": [TOOL]},
    {"chosen": [QUESTION, ANSWER], "rejected": [QUESTION, OTHER], "system": "s"},
    {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
]
words = st.sampled_from(["Hi", "", " ", "\0", "\ud800", "[]", "[1]", '{"name": "f"}', "tool", "user", "assistant"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words | st.just("name"), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every part of a row."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in places(part, (*path, key)))]


@st.composite
def broken(draw: st.DrawFn) -> Any:
    """Draw a good row with some of its parts replaced, left out or added."""
    row = copy.deepcopy(draw(st.sampled_from(ROWS)))
    for _ in range(draw(st.integers(0, 2))):
        *way, last = draw(st.sampled_from(places(row)[1:]))
        inside = row
        for key in way:
            inside = inside[key]
        what = draw(st.sampled_from(["replace", "remove", "repeat"]))
        if what == "remove":
            del inside[last]
        elif what == "repeat" and isinstance(inside, list):
            inside.append(inside[last])
        else:
            inside[last] = draw(junk)
        if not places(row)[1:]:
            break
    return row


@settings(max_examples=500, deadline=None)
@given(given_row=broken() | junk, format=st.sampled_from(FORMATS))
def test_any_row_is_parsed_or_refused_with_a_reason(given_row, format):
    for chosen in {format, detect(given_row) or format}:
        made = parse_row(given_row, "f:1", chosen)
        assert isinstance(made, Conversation | Preference | Problem)
        if isinstance(made, Problem):
            assert made.what
            assert "\n" not in str(made)
        else:
            assert len(made.digest()) == 16
            sides = (made,) if isinstance(made, Conversation) else made.conversations
            assert all(side.messages[-1].role == "assistant" and side.answers for side in sides)
