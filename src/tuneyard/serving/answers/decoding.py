"""Token ids to text, one at a time: exactly what decoding all of them gives, with special tokens kept apart.

A special token never is a part of an answer's words, but a chat template may mark a reasoning or a tool call with one.
So `SpecialTokens` writes each as one character that no decoded text can hold, a lone surrogate, and takes it out again
before anything leaves the server.
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
"""How SentencePiece's tokenizers write a byte."""

_LONGEST_RUN = 32
"""Tokens after which bytes are passed on at the end of a character, and after twice as many wherever they are."""


class SpecialTokens:
    """The special tokens of one tokenizer, each with the character that stands for it.

    Which character it is follows from the tokenizer alone, so an answer is read the same way whatever came before.
    There are 2,048 of them: where a tokenizer has more special tokens, those of its chat template come first.

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
        """Write each special token of a text as its character.

        Args:
            text: Such as a rendered chat template.
        """
        if self._find is None:
            return text
        return self._find.sub(lambda found: self._characters.get(found.group(), ""), text)

    def spell(self, text: str) -> str:
        """Write special tokens in place of their characters."""
        return _SURROGATES.sub(lambda found: self._spelled.get(found.group(), ""), text)


def without_special(text: str) -> str:
    """Take the characters that stand for special tokens out of a text."""
    return _SURROGATES.sub("", text)


class TokenDecoder:
    """Decodes an answer's tokens as they are generated.

    Text comes out when it can no longer change, so the pieces together are `tokenizer.decode` of all tokens without the
    special ones. The method is that of text-generation-inference: two decodings of a short window, of which the
    difference is new.

    Args:
        tokenizer: The model's tokenizer.
        special: Its special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: SpecialTokens) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._window: list[int] = []
        self._read = 0  # how many tokens of the window are out already

    def feed(self, token: int) -> str:
        """Take one more token.

        Args:
            token: Its id.

        Returns:
            The text that is certain now, or the character of a special token; often empty.
        """
        if token in self._special:
            return self._special.character(token)
        self._window.append(token)
        text = self._decode(self._window)
        pending = len(self._window) - self._read
        # Bytes that stand for themselves are a text only if all of them in a row are one.
        is_byte = _BYTE.fullmatch(str(self._tokenizer.convert_ids_to_tokens(token)))
        if (is_byte and pending < _LONGEST_RUN) or (text.endswith(_UNFINISHED) and pending < 2 * _LONGEST_RUN):
            return ""
        return self._new(text)

    def rest(self) -> str:
        """Return what was held back, now that nothing follows."""
        return self._new(self._decode(self._window))

    def _new(self, text: str) -> str:
        before = self._decode(self._window[: self._read])
        if len(text) <= len(before):
            return ""
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return text[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        # Spaces stay as they are: tidied up, a piece would differ from the same piece of the whole.
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
