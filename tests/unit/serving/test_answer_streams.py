"""Answers on their way out: ended before a stop word however the text is split, with a reason, as OpenAI's events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lab.tiny_models import make_tokenizer
from tuneyard.serving.answers.decoding import SpecialTokens, TokenDecoder
from tuneyard.serving.answers.forms import AnswerForm
from tuneyard.serving.answers.parsing import AnswerParser, Content, Part, Reasoning, ToolCall
from tuneyard.serving.answers.reader import AnswerReader, StopWords, text_of
from tuneyard.serving.errors import GenerationError
from tuneyard.serving.responses import ChatResponse, Ending, TextResponse, events

texts = st.text(alphabet="abx", max_size=30)


@given(st.lists(texts, max_size=8), st.lists(st.text(alphabet="abx", min_size=1, max_size=4), min_size=1, max_size=3))
def test_streamed_text_equals_the_whole_text_up_to_its_first_stop_word(pieces, words):
    stop = StopWords(words)
    shown = "".join(stop.feed(piece) for piece in pieces) + stop.rest()
    whole = "".join(pieces)
    found = [at for word in words if (at := whole.find(word)) >= 0]
    # Of two words one may be complete while the other, which began earlier, still grows: then the first complete wins.
    assert whole.startswith(shown)
    assert (shown == whole) == (not found)
    assert stop.ended == bool(found)
    if len(words) == 1 and found:
        assert shown == whole[: found[0]]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = make_tokenizer(tmp_path_factory.mktemp("streams"))
    return AutoTokenizer.from_pretrained(folder)


def read(tokenizer: Any, text: str, *, stops: tuple[str, ...] = ()) -> tuple[list[Part], AnswerReader]:
    special = SpecialTokens(tokenizer)
    reader = AnswerReader(
        TokenDecoder(tokenizer, special),
        AnswerParser(AnswerForm(), special),
        stop_tokens=frozenset([tokenizer.eos_token_id]),
        stop_words=stops,
    )
    parts = [part for token in tokenizer(text)["input_ids"] for part in reader.feed(token)]
    return [*parts, *reader.finish()], reader


@pytest.mark.parametrize(
    ("text", "stops", "shown", "reason"),
    [
        ("Yes, no.<|im_end|>", (), "Yes, no.", "stop"),
        ("Yes, no.<|im_end|>maybe", (), "Yes, no.", "stop"),
        ("Yes, no.", (), "Yes, no.", "length"),
        ("Yes, END no.", ("END",), "Yes, ", "stop"),
        ("Yes, EN", ("END",), "Yes, EN", "length"),
        ("Yes, EN<|im_end|>", ("END",), "Yes, EN", "stop"),
        ("", (), "", "length"),
    ],
)
def test_answer_ends_at_a_stop_token_or_before_a_stop_word_else_is_cut(tokenizer, text, stops, shown, reason):
    parts, reader = read(tokenizer, text, stops=stops)
    assert text_of(parts, Content) == shown
    assert reader.finish_reason == reason


def test_stop_token_is_the_last_token_counted(tokenizer):
    _, reader = read(tokenizer, "a<|im_end|>bcd")
    assert reader.tokens == 2


PARTS: list[Part | Ending] = [
    Reasoning("So."),
    Content("It is "),
    Content("🛶\n\n"),
    ToolCall("abcdefgh1", "measure", '{"boat": "Anna"}'),
    ToolCall("abcdefgh2", "weigh", "{}"),
    Ending("tool_calls", 5, 7),
]


def streamed(reply: ChatResponse, parts: list[Part | Ending], failure: Exception | None = None) -> list[str]:
    async def source() -> AsyncGenerator[Part | Ending]:
        for part in parts:
            yield part
        if failure:
            raise failure

    async def collect() -> list[str]:
        return [event async for event in events(reply, source())]

    return asyncio.run(collect())


def chunks(sent: list[str]) -> list[dict[str, Any]]:
    assert sent[-1] == "data: [DONE]\n\n"
    assert all(event.endswith("\n\n") and event.count("\n") == 2 for event in sent)
    return [json.loads(event.removeprefix("data: ")) for event in sent[:-1]]


def test_chat_stream_has_openai_chunks_equal_to_the_whole_completion():
    got = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks(streamed(ChatResponse("1", "m"), PARTS))]
    deltas = [chunk.choices[0].delta for chunk in got]
    assert deltas[0].role == "assistant"
    assert "".join(delta.content or "" for delta in deltas) == "It is 🛶\n\n"
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    assert [(call.index, call.id, call.function.name) for call in calls if call.function] == [
        (0, "abcdefgh1", "measure"),
        (1, "abcdefgh2", "weigh"),
    ]
    assert [chunk.choices[0].finish_reason for chunk in got] == [None] * (len(got) - 1) + ["tool_calls"]
    assert not any(chunk.usage for chunk in got)
    whole = ChatCompletion.model_validate(ChatResponse("1", "m").whole(PARTS[:-1], Ending("tool_calls", 5, 7)))
    message = whole.choices[0].message
    assert message.content == "It is 🛶\n\n"
    assert message.model_extra == {"reasoning_content": "So."}
    assert [call.id for call in message.tool_calls or ()] == ["abcdefgh1", "abcdefgh2"]
    assert whole.usage and whole.usage.total_tokens == 12


@pytest.mark.parametrize("kind", [ChatResponse, TextResponse])
def test_requested_usage_is_in_a_last_chunk_without_choices(kind):
    ending: list[Part | Ending] = [Content("a"), Ending("stop", 5, 7)]
    assert all("usage" not in chunk for chunk in chunks(streamed(kind("1", "m"), ending)))
    *others, last = chunks(streamed(kind("1", "m", include_usage=True), ending))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert all(chunk["usage"] is None for chunk in others)


def test_completion_chunks_have_text():
    got = chunks(streamed(TextResponse("1", "m"), [Content("a"), Content("b"), Ending("length", 1, 2)]))
    assert "".join(chunk["choices"][0]["text"] for chunk in got) == "ab"
    assert got[-1]["choices"][0]["finish_reason"] == "length"
    whole = Completion.model_validate(
        TextResponse("1", "m").whole([Content("a"), Content("b")], Ending("length", 1, 2))
    )
    assert whole.choices[0].text == "ab"


def test_error_within_a_stream_is_an_event():
    got = chunks(streamed(ChatResponse("1", "m"), [Content("a")], GenerationError("It broke.")))
    assert got[-1]["error"]["message"] == "It broke."
    assert got[-1]["error"]["type"] == "server_error"


def test_waiting_stream_sends_comments():
    """A comment, which clients pass over: reasoning may take minutes before there is anything to send."""
    go_on = asyncio.Event()

    async def source() -> AsyncGenerator[Part | Ending]:
        await go_on.wait()
        yield Content("a")
        yield Ending("stop", 1, 1)

    async def collect() -> list[str]:
        sent: list[str] = []
        async for event in events(ChatResponse("1", "m"), source(), waiting_seconds=0.01):
            sent.append(event)
            if event.startswith(":"):
                go_on.set()
        return sent

    sent = asyncio.run(collect())
    assert sent[1].startswith(": ")
    assert len(chunks([event for event in sent if not event.startswith(":")])) == 3


def test_abandoned_stream_closes_its_source():
    closed: list[bool] = []

    async def source() -> AsyncGenerator[Part | Ending]:
        try:
            yield Content("a")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def leave() -> None:
        stream = events(ChatResponse("1", "m"), source(), waiting_seconds=0.01)
        async for event in stream:
            if event.startswith(":"):
                break
        await stream.aclose()  # pyright: ignore[reportAttributeAccessIssue]

    asyncio.run(leave())
    assert closed == [True]
