"""Tokens decoded one at a time give what the tokenizer makes of all of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from chat_families import FAMILIES, make_family_tokenizer
from tiny_models import make_tokenizer

from tuneyard.serve.decoding import SpecialTokens, TokenDecoder, without_special

STYLES = ("chatml", "llama3", "mistral", "zephyr", "plain")


def load(folder: Path, name: str) -> Any:
    from transformers import AutoTokenizer

    if name in STYLES:
        return AutoTokenizer.from_pretrained(make_tokenizer(folder, style=name))  # pyright: ignore[reportArgumentType]
    return AutoTokenizer.from_pretrained(make_family_tokenizer(folder, FAMILIES[name]))


def decoded(tokenizer: Any, ids: list[int]) -> str:
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    return "".join(decoder.feed(number) for number in ids) + decoder.rest()


@pytest.mark.parametrize("name", [*STYLES, "qwen-3", "gpt-oss", "glm-4-moe"])
def test_any_tokens_give_what_decoding_all_of_them_gives(tmp_path: Path, name: str) -> None:
    """Random tokens: broken UTF-8, special tokens in the midst of a character, spaces at the beginning."""
    tokenizer = load(tmp_path, name)
    rng = random.Random(20_261_126)
    for _ in range(300):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(24))]
        assert decoded(tokenizer, ids) == tokenizer.decode(ids, skip_special_tokens=True), ids


@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("text", ["Wie heißt 🛶? 日本語です。", "  def f():\n\treturn 1\n", "a  b . c ' s", "é" * 40])
def test_a_text_comes_out_as_it_is_and_bit_by_bit(tmp_path: Path, name: str, text: str) -> None:
    tokenizer = load(tmp_path, name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    pieces = [decoder.feed(number) for number in ids]
    assert "".join(pieces) + decoder.rest() == tokenizer.decode(ids)
    assert all("\ufffd" not in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 1


def test_broken_bytes_without_end_are_passed_on(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "chatml")
    broken = tokenizer.convert_tokens_to_ids("Ģ")  # the byte 0x80, as byte-level tokenizers write it
    decoder = TokenDecoder(tokenizer, SpecialTokens(tokenizer))
    pieces = [decoder.feed(broken) for _ in range(200)]
    assert sum(map(len, pieces)) >= 150
    assert "".join(pieces) + decoder.rest() == "\ufffd" * 200


def test_a_special_token_is_a_character_only_where_a_template_uses_it(tmp_path: Path) -> None:
    tokenizer = load(tmp_path, "gpt-oss")
    special = SpecialTokens(tokenizer)
    channel, start = tokenizer.convert_tokens_to_ids(["<|channel|>", "<|start|>"])
    marked = special.mark("<|channel|>final")
    decoder = TokenDecoder(tokenizer, special)
    assert decoder.feed(start) == ""
    assert decoder.feed(channel) + "final" == marked
    assert special.spell(marked) == "<|channel|>final"
    assert without_special(marked) == "final"
