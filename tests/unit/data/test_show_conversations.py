"""A conversation on the terminal: every character and special token, the trained parts marked, also without colour."""

from __future__ import annotations

import pytest

from lab.chats import chat
from tuneyard.data import conversation_text
from tuneyard.data.show import bar
from tuneyard.errors import InvalidDataError


def test_trained_text_is_between_marks_and_special_tokens_are_shown(make_encoder):
    text = conversation_text(make_encoder("chatml"), chat("a", "b é 日本", "c", "d", where="rows.jsonl:3"))
    first, _, rest = text.plain.partition("\n")
    assert first.startswith("rows.jsonl:3: ")
    assert first.endswith(" in the loss")
    assert rest == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\na<|im_end|>\n"
        "<|im_start|>assistant\n«b é 日本<|im_end|>»\n<|im_start|>user\nc<|im_end|>\n"
        "<|im_start|>assistant\n«d<|im_end|>»"
    )


def test_trained_text_is_green_and_the_rest_is_not(make_encoder):
    text = conversation_text(make_encoder("chatml"), chat("question", "answer"))
    green = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    assert green == "«answer<|im_end|>»"


def test_spaces_of_sentencepiece_like_tokens_are_kept(make_encoder):
    text = conversation_text(make_encoder("mistral"), chat("What is a yard?", "A place."))
    assert "[INST] What is a yard? [/INST]« A place.</s>»" in text.plain


def test_control_characters_are_shown_escaped(make_encoder):
    text = conversation_text(make_encoder("chatml"), chat("a\x1b[31m", "b\tc"))
    assert "a\\x1b[31m" in text.plain
    assert "«b\tc<|im_end|>»" in text.plain


def test_a_truncated_row_has_a_note(make_encoder):
    encoder = make_encoder("chatml", max_length=40, overlong="truncate")
    text = conversation_text(encoder, chat("a", "word " * 50))
    assert text.plain.count("«") == text.plain.count("»") == 1
    assert text.plain.endswith("tokens, and 40 are allowed)")


def test_a_dropped_row_has_a_note(make_encoder):
    encoder = make_encoder("chatml", max_length=10)
    length = make_encoder("chatml").encode(chat("a", "b"))[0].length
    text = conversation_text(encoder, chat("a", "b", where="rows.jsonl:9"))
    assert text.plain == f"rows.jsonl:9: dropped, {length} tokens, and 10 are allowed"


def test_a_row_that_cannot_be_encoded_is_refused(make_encoder):
    with pytest.raises(InvalidDataError, match="refused by the chat template"):
        conversation_text(make_encoder("mistral"), chat("a", "b", system="s"))


@pytest.mark.parametrize(
    ("amount", "expected"),
    [(0, ""), (1, "▏"), (1000, "█" * 10), (500, "█" * 5), (550, "█" * 5 + "▌"), (999, "█" * 10)],
)
def test_a_bar_is_exact_to_an_eighth_and_never_empty_above_zero(amount, expected):
    assert bar(amount, 1000, width=10) == expected
