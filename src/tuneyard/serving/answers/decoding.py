"""Decoding of token ids one at a time: exactly the text that decoding all of them gives, special tokens kept apart.

A special token is never part of an answer's text, but a chat template may mark reasoning or a tool call with one. So
`SpecialTokens` writes each as one character that no decoded text can contain, a lone surrogate, which is removed before
anything leaves the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

_FIRST = 0xD800
_SURROGATES = re.compile("[\ud800-\udfff]")
_MOST = 0x800
_UNFINISHED = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
"""A byte in the vocabulary of SentencePiece's tokenizers."""

_LONGEST_RUN = 32
"""Pending tokens after which bytes are decoded at the end of a character; after twice as many, anywhere."""


class SpecialTokens:
    """The special tokens of one tokenizer, each with the character that stands for it.

    The characters follow from the tokenizer alone, so reading an answer never depends on earlier requests. There are
    2,048 of them: where a tokenizer has more special tokens, those in its chat template come first.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        added: Mapping[int, object] = tokenizer.added_tokens_decoder
        self._tokens = {number: str(token) for number, token in added.items() if getattr(token, "special", False)}
        template = str(cast("Any", tokenizer).chat_template)
        names = sorted(set(filter(None, self._tokens.values())), key=lambda token: (token not in template, token))
        self._characters = {token: chr(_FIRST + place) for place, token in enumerate(names[:_MOST])}
        self._spelled = {character: token for token, character in self._characters.items()}
        longest_first = sorted(names, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __contains__(self, token: int) -> bool:
        """Whether a token is special."""
        return token in self._tokens

    def character(self, token: int) -> str:
        """Return the character that stands for a special token; empty where it has none."""
        return self._characters.get(self._tokens[token], "")

    def mark(self, text: str) -> str:
        """Replace each special token in a text by its character.

        Args:
            text: A text, such as a rendered chat template.
        """
        if self._find is None:
            return text
        return self._find.sub(lambda found: self._characters.get(found.group(), ""), text)

    def spell(self, text: str) -> str:
        """Replace characters by the special tokens that they stand for."""
        return _SURROGATES.sub(lambda found: self._spelled.get(found.group(), ""), text)


def without_special(text: str) -> str:
    """Remove the characters that stand for special tokens from a text."""
    return _SURROGATES.sub("", text)


class TokenDecoder:
    """Decodes an answer's tokens as they are generated.

    Text is returned when it can no longer change, so the pieces together are `tokenizer.decode` of all tokens without
    the special ones. The method is that of text-generation-inference: a short window is decoded twice, and the
    difference is new.

    Args:
        tokenizer: The model's tokenizer.
        special: Its special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: SpecialTokens) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._window: list[int] = []
        self._read = 0  # the number of tokens of the window whose text was returned

    def feed(self, token: int) -> str:
        """Add a token.

        Args:
            token: Its id.

        Returns:
            The text that can no longer change, or the character of a special token; often empty.
        """
        if token in self._special:
            return self._special.character(token)
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._read
        # Byte tokens are decoded together: they are text only if the whole run of them is valid UTF-8.
        is_byte = _BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token)))
        if (is_byte and pending < _LONGEST_RUN) or (text.endswith(_UNFINISHED) and pending < 2 * _LONGEST_RUN):
            return ""
        return self._new(text)

    def rest(self) -> str:
        """Return the text held back, at the end of the answer."""
        return self._new(self._decode(self._window))

    def _new(self, text: str) -> str:
        before = self._decode(self._window[: self._read])
        if len(text) <= len(before):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return text[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        # Without clean-up of spaces, which would make a piece differ from the same piece of the whole text.
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
