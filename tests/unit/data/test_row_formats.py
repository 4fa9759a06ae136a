"""Every format of rows is detected by its fields and parsed into the same conversations and preferences."""

from __future__ import annotations

import json
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.chats import row
from tuneyard.cli import data as command
from tuneyard.data import FORMATS, Conversation, Preference, detect, format_of, parse_row, read_rows
from tuneyard.errors import Problem
from tuneyard.values import Dataset

CALL = {"name": "add", "arguments": {"a": 1}}
TOOL = {"name": "add", "parameters": {}}
U = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "Hello"}
B = {"role": "assistant", "content": "Go away"}


def texts(messages) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


ONE_TURN = [("user", "Hi"), ("assistant", "Hello")]
CONVERSATIONS = [
    (row("Hi", "Hello"), "messages", ONE_TURN),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "sharegpt", ONE_TURN),
    ({"conversations": [U, A]}, "sharegpt", ONE_TURN),
    ({"messages": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello"}]}, "sharegpt", ONE_TURN),
    (
        {"system": "s", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        "sharegpt",
        [("system", "s"), *ONE_TURN],
    ),
    ({"prompt": "Hi", "completion": "Hello"}, "prompt-completion", ONE_TURN),
    ({"prompt": [U], "completion": [A]}, "prompt-completion", ONE_TURN),
    ({"question": "Hi", "answer": "Hello"}, "prompt-completion", ONE_TURN),
    ({"instruction": "Hi", "input": "", "output": "Hello"}, "alpaca", ONE_TURN),
    ({"instruction": "Add", "input": "1, 2", "output": "3"}, "alpaca", [("user", "Add\n1, 2"), ("assistant", "3")]),
    ({"instruction": "Add", "context": "1, 2", "response": "3"}, "alpaca", [("user", "Add\n1, 2"), ("assistant", "3")]),
    (
        {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]},
        "alpaca",
        [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")],
    ),
]


@pytest.mark.parametrize(("given", "format", "messages"), CONVERSATIONS)
def test_a_format_is_detected_by_its_fields_and_parsed(given, format, messages):
    assert detect(given) == format
    made = parse_row(given, "f:1", format)
    assert isinstance(made, Conversation), made
    assert texts(made.messages) == messages
    assert (made.tools, made.where, made.unused) == (None, "f:1", ())


QUESTION = [("user", "Hi")]
PREFERENCES = [
    ({"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}, QUESTION),
    ({"prompt": [U], "chosen": [A], "rejected": [B]}, QUESTION),
    ({"chosen": [U, A], "rejected": [U, B]}, QUESTION),
    ({"prompt": "Hi", "chosen": [U, A], "rejected": [U, B]}, QUESTION),
    ({"prompt": [U], "chosen": A, "rejected": B}, QUESTION),
    ({"system": "s", "question": "Hi", "chosen": "Hello", "rejected": "Go away"}, [("system", "s"), *QUESTION]),
    ({"instruction": "Hi", "input": "x", "chosen": "Hello", "rejected": "Go away"}, [("user", "Hi\nx")]),
    (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "Go away"},
        },
        QUESTION,
    ),
    (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Go away",
        },
        QUESTION,
    ),
    ({"chosen": [U, A, U, A], "rejected": [U, A, U, B]}, [("user", "Hi"), ("assistant", "Hello"), ("user", "Hi")]),
]


@pytest.mark.parametrize(("given", "prompt"), PREFERENCES)
def test_a_preference_is_parsed_in_each_of_its_forms(given, prompt):
    assert detect(given) == "preference"
    made = parse_row(given, "f:1", "preference")
    assert isinstance(made, Preference), made
    assert texts(made.prompt) == prompt
    assert texts(made.chosen) == [("assistant", "Hello")]
    assert texts(made.rejected) == [("assistant", "Go away")]
    chosen, rejected = made.conversations
    assert (chosen.given, chosen.answers) == (len(prompt), [len(prompt)])
    assert texts(rejected.messages) == [*prompt, ("assistant", "Go away")]


def test_equal_conversations_of_other_formats_have_one_digest():
    same = [given for given, _, messages in CONVERSATIONS if messages == ONE_TURN]
    assert len(same) > 6
    assert len({parse_row(given, "f:1", detect(given)).digest() for given in same}) == 1


def test_only_the_completion_of_a_prompt_with_turns_is_trained(make_encoder):
    made = parse_row({"prompt": [U, B, U], "completion": [A]}, "f:1", "prompt-completion")
    assert made.given == 3
    encoder = make_encoder("chatml")
    (encoded,) = encoder.encode(made)
    trained = [number for number, counts in zip(encoded.input_ids, encoded.loss_mask, strict=True) if counts]
    assert encoder.tokenizer.decode(trained) == "Hello<|im_end|>"
    assert made.digest() != parse_row({"messages": [U, B, U, A]}, "f:1").digest()


@pytest.mark.parametrize("as_text", [False, True])
def test_tool_calls_are_objects_or_text(as_text):
    written = (lambda value: json.dumps(value)) if as_text else (lambda value: value)
    shared = {"conversations": [
        {"from": "human", "value": "1 + 1?"},
        {"from": "function_call", "value": written(CALL)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "2."},
    ], "tools": written([TOOL])}  # fmt: skip
    function = {"type": "function", "function": {"name": "add", "arguments": written({"a": 1})}}
    openai = {"messages": [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [function | {"id": "c1"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "2."},
    ], "tools": written([{"type": "function", "function": TOOL}])}  # fmt: skip
    for given in (shared, openai):
        made = parse_row(given, "f:1", detect(given))
        assert isinstance(made, Conversation), made
        assert [message.role for message in made.messages] == ["user", "assistant", "tool", "assistant"]
        assert made.tools == ({"type": "function", "function": TOOL},)
        (call,) = made.messages[1].fields["tool_calls"]
        arguments = call["function"]["arguments"]
        assert (json.loads(arguments) if isinstance(arguments, str) else arguments) == {"a": 1}


def test_fields_that_no_format_uses_are_named():
    given = {"conversations": [{"from": "human", "value": "Hi", "note": 1}, {"from": "gpt", "value": "x"}], "id": 1}
    assert parse_row(given, "f:1", "sharegpt").unused == ("id", "conversations[].note")
    assert parse_row({"prompt": "a", "completion": "b", "source": 1}, "f:1", "prompt-completion").unused == ("source",)
    assert parse_row({"instruction": "a", "output": "b", "text": ""}, "f:1", "alpaca").unused == ("text",)
    given = {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1}
    assert parse_row(given, "f:1", "preference").unused == ("score_chosen",)


@pytest.mark.parametrize(
    ("format", "given", "reason"),
    [
        ("sharegpt", {"messages": 3}, "messages is not a list (given: '3'); allowed: a list of {from, value}"),
        (
            "sharegpt",
            {"conversations": ["x"]},
            "conversations[0] is not an object (given: 'x'); allowed: {from, value}",
        ),
        ("sharegpt", {"conversations": [{"value": "x"}]}, "conversations[0] has no speaker (given: 'keys value')"),
        (
            "sharegpt",
            {"conversations": [{"from": "Benutzer", "value": "x"}]},
            "conversations[0] has an unknown role (given: 'Benutzer'); allowed: system, human, user, gpt",
        ),
        ("sharegpt", {"conversations": [{"from": "Benutzer", "value": "x"}]}, "did you mean user?"),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": ""}]},
            "conversations[1].value is empty",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "add(1)"}]},
            "conversations[1].value is text that is not JSON (given: 'add(1)')",
        ),
        ("messages", {"messages": [U, A | {"role": "助手"}]}, "did you mean assistant?"),
        ("messages", {"messages": [U | {"role": "Benutzer"}, A]}, "did you mean user?"),
        ("messages", {"messages": [U, A | {"tool_calls": [{}]}]}, "messages[1].tool_calls[0] names no function"),
        (
            "messages",
            {"messages": [U, A | {"tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "messages[1].tool_calls[0].function.arguments are not an object (given: '[1]')",
        ),
        (
            "messages",
            {"messages": [U, A | {"tool_calls": [{"name": "f", "arguments": "{a"}]}]},
            "messages[1].tool_calls[0].function.arguments is text that is not JSON",
        ),
        (
            "messages",
            {"messages": [U, A | {"tool_calls": [{"name": "ad"}]}], "tools": [TOOL]},
            "messages[1] calls a function that is not among the tools (given: 'ad'); allowed: add; did you mean add?",
        ),
        (
            "messages",
            {"messages": [U, A | {"tool_calls": [CALL | {"id": "1"}]}, {"role": "tool", "tool_call_id": "2"}, A]},
            "messages[2] answers a tool call that was never made (given: '2'); allowed: 1",
        ),
        ("messages", {"messages": [U | {"tool_calls": [CALL]}, A]}, "messages[0].tool_calls are the user's"),
        ("messages", {"messages": [U, A], "tools": [{"function": "x"}]}, "tools[0] names no function (given: '{"),
        ("messages", {"messages": [U, A], "tools": [{"type": "object"}]}, "tools[0] names no function"),
        ("messages", {"messages": [U, A], "tools": "[{"}, "tools is text that is not JSON (given: '[{')"),
        ("prompt-completion", {"prompt": "a", "completion": " "}, "completion is empty"),
        ("prompt-completion", {"prompt": "a", "completion": None}, "completion is neither text nor messages"),
        ("prompt-completion", {"prompt": "a", "completion": [U, A]}, "completion begins with the user's message"),
        ("prompt-completion", {"prompt": "a", "completion": "b", "label": False}, "rates its completion (label)"),
        ("prompt-completion", row("a", "b"), "it has the format messages, but its file is read as prompt-completion"),
        ("alpaca", {"instruction": "", "output": "b"}, "instruction is empty"),
        ("alpaca", {"instruction": "a", "output": ""}, "output is empty"),
        ("alpaca", {"instruction": "a", "output": "b", "history": ["x"]}, "history[0] is not a pair"),
        ("alpaca", {"text": "a"}, "the row has no instruction and output (given: 'keys text')"),
        ("preference", {"chosen": "a", "rejected": "b"}, "has no prompt; allowed: prompt, or chosen and rejected"),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are equal"),
        ("preference", {"prompt": "q", "chosen": "a", "rejected": ""}, "rejected is empty"),
        ("preference", {"prompt": "q", "chosen": [U], "rejected": [A]}, "chosen begins with the user's message"),
        (
            "preference",
            {"prompt": "other", "chosen": [U, A], "rejected": [U, B]},
            "do not begin with the prompt",
        ),
        ("preference", {"prompt": [U, A], "chosen": "a", "rejected": "b"}, "the prompt ends with the assistant's"),
        ("preference", row("a", "b"), "the row has no chosen and rejected: it has the format messages"),
    ],
)
def test_an_unusable_row_names_its_own_fields(format, given, reason):
    problem = parse_row(given, "f:7", format)
    assert isinstance(problem, Problem), problem
    assert reason in str(problem)
    assert str(problem).startswith("f:7: ")


def test_a_file_has_the_format_of_most_of_its_first_rows(write_rows):
    other = {"instruction": "a", "output": "b"}
    path = write_rows({"id": 1}, other, *[{"prompt": "a", "completion": "b"}] * 3, {"id": 2})
    assert format_of(path) == "prompt-completion"
    first, second, third, *_ = read_rows([path])
    assert str(first).startswith(f"{path}:1: the row has no prompt and completion")
    assert str(second).endswith("did you mean format alpaca?")
    assert isinstance(third, Conversation)


def test_a_given_format_overrides_the_detected_one(write_rows):
    given = {"messages": [U, A], "prompt": "a", "completion": "b"}
    path = write_rows(given)
    assert [texts(made.messages) for made in read_rows([path])] == [ONE_TURN]
    (made,) = read_rows([path], {path: "prompt-completion"})
    assert texts(made.messages) == [("user", "a"), ("assistant", "b")]
    assert made.unused == ("messages",)


def test_each_file_has_its_own_format(write_rows):
    rows = [given for given, _, _ in CONVERSATIONS if detect(given) == "alpaca"]
    one = write_rows(*rows, name="one.jsonl")
    two = write_rows(*(given for given, _ in PREFERENCES), name="two.jsonl")
    read = list(read_rows([one, two]))
    assert [type(made) for made in read] == [Conversation] * len(rows) + [Preference] * len(PREFERENCES)


def test_parquet_has_every_format_too(tmp_path):
    assert len(FORMATS) == 5
    for name, rows in {
        "alpaca": [{"instruction": "Hi", "input": None, "output": "Hello"}],
        "preference": [{"prompt": "Hi", "chosen": [A], "rejected": [B]}],
        "sharegpt": [CONVERSATIONS[1][0]],
    }.items():
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
        assert format_of(path) == name
        (made,) = read_rows([path])
        assert not isinstance(made, Problem), made


def test_values_and_the_command_name_the_same_formats():
    named = get_args(Dataset.model_fields["format"].annotation)
    assert named == ("auto", *FORMATS) == ("auto", *command._FORMATS)
