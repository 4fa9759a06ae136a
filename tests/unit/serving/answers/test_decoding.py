"""Tokens decoded one at a time give what the tokenizer makes of all of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lab.chat_families import FAMILIES, make_family_tokenizer
from lab.tiny_models import make_tokenizer
from tuneyard.serving.answers.decoding import SpecialTokens, TokenDecoder, without_special

STYLES = ("chatml", "llama3", "mistral", "zephyr", "plain")


def load(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    if name in STYLES:
        return AutoTokenizer.from_pretrained(make_tokenizer(folder, style=name))  # pyright: ignore[reportArgumentType]
    return AutoTokenizer.from_pretrained(make_family_tokenizer(folder, FAMILIES[name]))


def decoded(tokenizer: Any, ids: list[int]) -> str:
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    return without_special("".join(decoder.feed(number) for number in ids) + decoder.rest())


@pytest.mark.parametrize("name", [*STYLES, "qwen-3", "gpt-oss", "glm-4-moe"])
def test_incremental_decoding_equals_decoding_all_tokens(tmp_path: Path, name: str) -> None:
    """Random tokens: broken UTF-8, special tokens in the midst of a character, spaces at the beginning."""
    tokenizer = load(tmp_path, name)
    rng = random.Random(20_261_126)
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(24))]
        assert decoded(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True), ids


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("text", ["Wie heißt 🛶? 日本語です。", "  def f():\n\treturn 1\n", "a  b . c ' s", "é" * 40])
def test_text_is_decoded_unchanged_and_incrementally(tmp_path: Path, name: str, text: str) -> None:
    tokenizer = load(tmp_path, name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    pieces = [decoder.feed(number) for number in ids]
    assert "".join(pieces) + decoder.rest() == tokenizer.decode(ids)
    assert all("\ufffd" not in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 1


def test_endless_invalid_bytes_are_decoded(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "chatml")
    broken = tokenizer.convert_tokens_to_ids("Ģ")  # the byte 0x80, as byte-level tokenizers write it
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    pieces = [decoder.feed(broken) for _ in range(200)]
    assert sum(map(len, pieces)) >= 150
    assert "".join(pieces) + decoder.rest() == "\ufffd" * 200


def test_special_token_is_one_character_and_its_text_is_not(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "gpt-oss")
    special = SpecialTokens(tokenizer)
    channel, start = tokenizer.convert_tokens_to_ids(["<|channel|>", "<|start|>"])
    marked = special.mark("<|channel|>final<|no token|>")
    decoder = TokenDecoder(tokenizer, special)
    assert len(decoder.feed(start)) == 1
    assert decoder.feed(channel) + "final<|no token|>" == marked
    assert special.spell(marked) == "<|channel|>final<|no token|>"
    assert without_special(marked) == "final<|no token|>"


def test_characters_of_special_tokens_depend_on_the_tokenizer_alone(tmp_path: Path) -> None:
    """Not from what was marked before: else an answer would depend on earlier requests."""
    tokenizer = load(tmp_path, "gpt-oss")
    one, other = SpecialTokens(tokenizer), SpecialTokens(tokenizer)
    tokens = [number for number in tokenizer.added_tokens_decoder if number in one]
    for text in ("<|channel|>", "a <|end|> b <|start|>"):
        other.mark(text)
    assert [one.character(token) for token in tokens] == [other.character(token) for token in tokens]
    assert len({one.character(token) for token in tokens}) == len(tokens) > 5


def test_special_tokens_of_the_template_have_characters_among_thousands(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "gpt-oss")
    tokenizer.add_special_tokens({"additional_special_tokens": [f"<!{number:04}>" for number in range(3000)]})
    special = SpecialTokens(tokenizer)
    assert special.character(tokenizer.convert_tokens_to_ids("<|channel|>"))
    others = [special.character(tokenizer.convert_tokens_to_ids(f"<!{number:04}>")) for number in range(3000)]
    assert 1500 < len({each for each in others if each}) < 2048
    assert special.mark("<!2999>text") == "text"
