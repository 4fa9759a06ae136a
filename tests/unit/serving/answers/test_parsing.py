"""Text that does not parse is content, unchanged, and an answer in pieces parses as the whole answer."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.answers import ALL, MESSAGES, NO_CALLS, TOOLS, answer, call, made, parsed
from tuneyard.serving.answers.parsing import AnswerParser, Content, ToolCall, typed_arguments
from tuneyard.serving.answers.toolcalls import Found

CONTENT_MARKS = {"gpt-oss", "muse_glimmer", "hunyuan", "cohere-r7b", "cohere2"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parsing")


ODD = {
    "indentation": "    def f():\n\treturn 1\n",
    "spaces around": "  \n Yes. \n\n",
    "reasoning that never ends": "<think>\nI wonder",
    "an end of reasoning that never began": "I wonder</think>\n\nYes.",
    "reasoning within content": "Write <think>so</think>, then.",
    "a call that is no JSON": "<tool_call>\nmeasure Anna\n</tool_call>",
    "a call with JSON that is none": '<tool_call>\n["measure"]\n</tool_call>',
    "a call without arguments": '<tool_call>\n{"name": "measure"}\n</tool_call>',
    "a call of nothing": '<tool_call>\n{"name": "", "arguments": {}}\n</tool_call>',
    "arguments that are a list": '<tool_call>\n{"name": "measure", "arguments": ["Anna"]}\n</tool_call>',
    "arguments that are NaN": '<tool_call>\n{"name": "measure", "arguments": {"n": NaN}}\n</tool_call>',
    "arguments beyond every number": '<tool_call>\n{"name": "measure", "arguments": {"n": 1e999}}\n</tool_call>',
    "a call nested without end": '<tool_call>\n{"name": "measure", "arguments": ' + '{"a":' * 1200,
    "a call that is cut": '<tool_call>\n{"name": "measure", "argum',
    "a mark that is cut": "Yes. <tool_c",
    "an empty call": "<tool_call></tool_call>",
    "marks alone": "</tool_call><tool_call></think>",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [name for name in ALL if name not in CONTENT_MARKS])
def test_text_that_does_not_parse_is_content_unchanged(root: Path, name: str, odd: str) -> None:
    text = ODD[odd]
    if "</think>" in text and made(name, root).prompt.within_reasoning:
        return  # there the prompt has opened reasoning, and this ends it

    for seed in range(3):
        assert parsed(name, root, text, pieces=random.Random(seed)) == (text, "", [])


def test_special_token_is_shown_only_where_an_unparsed_part_began(root: Path) -> None:
    text = "Yes.<|assistant|> [TOOL_CALLS] [no json"
    assert parsed("mistral-nemo", root, text) == ("Yes. [TOOL_CALLS] [no json", "", [])
    assert parsed("qwen-2.5", root, "<|im_start|>Yes.<|endoftext|>") == ("Yes.", "", [])


@pytest.mark.parametrize("kind", ["call", "calls", "code", "reasoning and call", "content and call"])
@pytest.mark.parametrize("name", [name for name in ALL if name not in CONTENT_MARKS])
def test_answer_cut_anywhere_loses_nothing(root: Path, name: str, kind: str) -> None:
    text = answer(name, root, MESSAGES[kind])
    if text is None:
        assert name in NO_CALLS or kind == "calls"
        return
    for end in range(0, len(text), 3):
        content, reasoning, calls = parsed(name, root, text[:end])
        if not calls and not reasoning:
            # all of it, but for special tokens and an empty reasoning that was complete
            wanted, got = made(name, root).bare(text[:end]), made(name, root).bare(content)
            assert wanted.endswith(got)
            assert not wanted[: len(wanted) - len(got)].strip() or "think>" in wanted[: len(wanted) - len(got)]


PIECES = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "measure", "arguments": {"boat": "Anna"}}', "\n",
    "<function=measure>", "</function>", "<parameter=boat>", "</parameter>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>", "measure", "[TOOL_CALLS]", "[ARGS]", '{"boat": "Anna"}', " ", "word", "[", "]", "{", "}", "[THINK]",
    "[/THINK]", "<|channel|>", "analysis", "<|message|>", "<|end|>", "final", " to=functions.measure",
    "commentary json",
)  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(
        [
            "qwen-2.5",
            "qwen-3",
            "qwen-3.5-think",
            "glm-4-moe",
            "mistral-tools",
            "magistral",
            "gpt-oss",
            "llama-3.1",
            "xlam",
        ]
    ),
    pieces=st.lists(st.sampled_from(PIECES), max_size=14),
    seed=st.integers(0, 1000),
)
def test_any_text_parses_the_same_in_pieces_and_loses_nothing(
    root: Path, name: str, pieces: list[str], seed: int
) -> None:
    text = "".join(pieces)
    whole = parsed(name, root, text)
    assert parsed(name, root, text, pieces=random.Random(seed)) == whole
    content, reasoning, calls = whole
    if name not in CONTENT_MARKS:
        # each word is in the content, in the reasoning, or in a call
        used = reasoning.count("word") + content.count("word") + sum("word" in str(call) for call in calls)
        assert used >= text.count("word") or calls
        assert (
            calls
            or reasoning
            or "think" in text.lower()
            or made(name, root).bare(content) == made(name, root).bare(text)
        )


def read(root: Path, name: str, text: str, **options: object) -> list[object]:
    one = made(name, root)
    parser = AnswerParser(one.prompt.form, one.special, **options)  # pyright: ignore[reportArgumentType]
    parts = list(parser.feed(one.special.mark(text)))
    return [*parts, *([] if parser.done else parser.finish())]


CALL = '<tool_call>\n{"name": "measure", "arguments": {"boat": "Anna"}}\n</tool_call>'


@pytest.mark.parametrize("name", ["qwen-2.5", "qwen-3.5-think", "glm-4-moe", "phi-4-mini", "olmo-3", "cohere-r7b"])
def test_long_call_is_parsed_only_when_it_may_have_ended(root: Path, name: str) -> None:
    """Read with each token, a file of code would take minutes: the time grows with the square of its length."""
    one, reads = made(name, root), 0
    calls = one.prompt.form.calls
    assert calls is not None
    text = one.special.mark(answer(name, root, {"tool_calls": [call("measure", boat="x = 1\n" * 2000)]}) or "")

    def counted(text: str, opened: re.Match[str]) -> Found | None:
        nonlocal reads
        reads += 1
        return calls.read_one(text, opened)

    form = replace(one.prompt.form, calls=replace(calls, read_one=counted))
    parser = AnswerParser(form, one.special, within_reasoning=one.prompt.within_reasoning, tools=TOOLS)
    parts = [part for place in range(0, len(text), 3) for part in parser.feed(text[place : place + 3])]
    assert [type(part) for part in parts if not isinstance(part, Content)] == [ToolCall]
    assert reads <= 3


def test_call_without_tools_is_content(root: Path) -> None:
    assert "".join(part.text for part in read(root, "qwen-2.5", CALL) if isinstance(part, Content)) == CALL
    (call,) = read(root, "qwen-2.5", CALL, tools=TOOLS)
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("measure", '{"boat": "Anna"}')


def test_bare_json_is_a_call_only_of_an_offered_tool(root: Path) -> None:
    for name, called in (("measure", True), ("nobody", False)):
        text = f'{{"name": "{name}", "parameters": {{"boat": "Anna"}}}}'
        content, _, calls = parsed("llama-3.1", root, text)
        assert (content, len(calls)) == (("", 1) if called else (text, 0))
    text = '{"name": "measure", "parameters": {}} is what I would say.'
    assert parsed("llama-3.1", root, text) == (text, "", [])


def test_calls_with_other_spacing_and_order_are_parsed(root: Path) -> None:
    text = '<tool_call>{"arguments":{"boat":"Anna"},"name":"measure"}</tool_call>\n\n' + CALL
    assert parsed("qwen-2.5", root, text) == ("", "", [("measure", {"boat": "Anna"})] * 2)


def test_text_around_calls_is_content(root: Path) -> None:
    content, _, calls = parsed("qwen-2.5", root, f"First.\n{CALL}\nThen that.")
    assert (content, len(calls)) == ("First.\nThen that.", 1)


def test_answer_without_parallel_calls_ends_after_one(root: Path) -> None:
    parts = read(root, "qwen-2.5", f"{CALL}\n{CALL}", tools=TOOLS, parallel=False)
    assert len(parts) == 1


def test_call_ids_have_nine_alphanumeric_characters(root: Path) -> None:
    (call,) = read(root, "qwen-2.5", CALL, tools=TOOLS)
    assert isinstance(call, ToolCall)
    assert len(call.identifier) == 9
    assert call.identifier.isalnum()
    own = '[TOOL_CALLS] [{"name": "measure", "arguments": {"boat": "Anna"}, "id": "myOwnId42"}]'
    (call,) = read(root, "mistral-nemo", own, tools=TOOLS)
    assert isinstance(call, ToolCall)
    assert call.identifier == "myOwnId42"


PARAMETERS = {
    "$defs": {"Point": {"type": "object", "properties": {}}},
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "share": {"type": ["number", "null"]},
        "fast": {"type": "boolean"},
        "point": {"$ref": "#/$defs/Point"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "loop": {"$ref": "#/properties/loop"},
    },
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "75001", "75001"), ("count", "75001", 75001), ("count", "7.5", "7.5"), ("count", "true", "true"),
        ("share", "0.5", 0.5), ("share", "null", None), ("share", "None", None), ("fast", "true", True),
        ("fast", "False", False), ("fast", "1", "1"), ("point", '{"x": 1}', {"x": 1}), ("point", "[1]", "[1]"),
        ("either", "3", 3), ("either", "x", "x"), ("loop", "3", "3"), ("unknown", "3", "3"),
    ],
)  # fmt: skip
def test_text_arguments_get_the_types_of_their_schema(key: str, text: str, value: object) -> None:
    given = typed_arguments({key: text}, PARAMETERS)[key]
    assert (given, type(given)) == (value, type(value))
