"""Token ids to text, one at a time: exactly what decoding all of them gives, with special tokens kept apart.

A special token never is a part of an answer's words, but a chat template may mark a reasoning or a tool call with one.
So `SpecialTokens` writes each that a template uses as one character that no decoded text can hold, a lone surrogate,
and takes it out again before anything leaves the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
    """The special tokens of one tokenizer.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        added: Mapping[int, object] = tokenizer.added_tokens_decoder
        self._tokens = {number: str(token) for number, token in added.items() if getattr(token, "special", False)}
        longest_first = sorted((token for token in self._tokens.values() if token), key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._characters: dict[str, str] = {}

    def __contains__(self, token: int) -> bool:
        """Whether a token is special."""
        return token in self._tokens

    def character(self, token: int) -> str:
        """Return the character that stands for a special token; empty where no template has used it."""
        return self._characters.get(self._tokens[token], "")

    def mark(self, rendered: str) -> str:
        """Write each special token of a rendered text as one character.

        Args:
            rendered: What a chat template has rendered.
        """
        if self._find is None:
            return rendered
        return self._find.sub(lambda found: self._character_of(found.group()), rendered)

    def spell(self, text: str) -> str:
        """Write special tokens out again."""
        tokens = {character: token for token, character in self._characters.items() if character}
        return _SURROGATES.sub(lambda found: tokens.get(found.group(), ""), text)

    def _character_of(self, token: str) -> str:
        if token not in self._characters:
            count = len(self._characters)
            self._characters[token] = chr(_FIRST + count) if count < _MOST else ""
        return self._characters[token]


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
