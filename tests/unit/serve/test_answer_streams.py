"""Answers on their way out: cut before a stop word however the text was split, and ended."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuneyard.serve.streams import StopWords, cut_answer, finished_stream

texts = st.text(alphabet="abx", max_size=30)


@given(st.lists(texts, max_size=8), st.lists(st.text(alphabet="abx", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stream_says_what_the_whole_text_says_before_its_first_stop_word(pieces, words):
    stop = StopWords(words)
    shown = "".join(stop.feed(piece) for piece in pieces) + stop.rest()
    whole = "".join(pieces)
    found = [at for word in words if (at := whole.find(word)) >= 0]
    # Of two words one may be complete while the other, which began earlier, still grows: then the first complete wins.
    assert whole.startswith(shown)
    assert (shown == whole) == (not found)
    if len(words) == 1 and found:
        assert shown == whole[: found[0]]


def event(**choice: Any) -> str:
    return f"data: {json.dumps({'id': '1', 'choices': [{'index': 0, **choice}]})}\n\n"


def passed(events: list[str], words: tuple[str, ...]) -> list[Any]:
    async def source():
        for each in events:
            yield each

    async def collect() -> str:
        return "".join([piece async for piece in finished_stream(source(), words)])

    parts = asyncio.run(collect()).split("\n\n")
    assert parts.pop() == ""
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def said(chunks: list[Any]) -> str:
    return "".join(chunk["choices"][0].get("delta", {}).get("content") or "" for chunk in chunks)


def test_a_stream_without_stop_words_is_passed_on_and_ended():
    events = [event(delta={"role": "assistant"}), event(delta={"content": "a"}) + event(delta={"content": "b"})]
    assert said(passed(events, ())) == "ab"


def test_a_stop_word_over_several_events_is_left_out():
    events = [event(delta={"content": piece}) for piece in ("one E", "N", "D two")]
    chunks = passed([*events, event(delta={}, finish_reason="stop")], ("END",))
    assert said(chunks) == "one "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_what_only_looked_like_a_stop_word_comes_before_the_last_event():
    chunks = passed([event(delta={"content": "one EN"}), event(delta={}, finish_reason="length")], ("END",))
    assert said(chunks) == "one EN"
    assert [chunk["choices"][0].get("finish_reason") for chunk in chunks] == [None, None, "length"]


def test_a_completion_s_held_text_comes_out_too():
    chunks = passed([event(text="a E"), event(text="", finish_reason="stop")], ("END",))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "a E"


def test_an_error_in_the_stream_is_passed_on():
    assert passed(['data: {"error": "it broke"}\n\n'], ("END",)) == [{"error": "it broke"}]


@pytest.mark.parametrize("holder", [{"text": "one END two"}, {"message": {"content": "one END two"}}])
def test_a_whole_answer_is_cut(holder):
    (choice,) = cut_answer({"choices": [holder]}, ("END",))["choices"]
    assert (choice.get("text") or choice["message"]["content"]) == "one "
