"""Reading an answer token by token: decoded, ended before a stop word, and parsed into parts.

A whole answer is read in the same way as a stream: it is the stream's parts joined. Stop words end an answer without
being part of it, so the end of a text that may be the start of one is held back until the next text decides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from tuneyard.serving.answers.decoding import TokenDecoder
from tuneyard.serving.answers.parsing import AnswerParser, Content, Part, Reasoning, ToolCall

FinishReason = Literal["stop", "length", "tool_calls"]


class StopWords:
    """Passes text on up to the first stop word.

    Args:
        words: The stop words, none of them empty.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.ended = False
        """Whether a stop word was found."""
        self._words = tuple(words)
        self._held = ""

    def feed(self, text: str) -> str:
        """Add text.

        Args:
            text: The text that was generated.

        Returns:
            The text that is certain to precede any stop word and was not returned before.
        """
        if self.ended:
            return ""
        self._held += text
        found = [at for word in self._words if (at := self._held.find(word)) >= 0]
        if found:
            self.ended = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_overlap(self._held, word) for word in self._words), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def rest(self) -> str:
        """Return the text held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


class AnswerReader:
    """Reads one answer, token by token.

    Args:
        decoder: Decodes its tokens.
        parser: Parses its text.
        stop_tokens: The ids of the tokens that end it.
        stop_words: The words that end it.
    """

    def __init__(
        self, decoder: TokenDecoder, parser: AnswerParser, *, stop_tokens: Collection[int], stop_words: Sequence[str]
    ) -> None:
        self.tokens = 0
        """The number of generated tokens, the stop token included."""
        self._decoder, self._parser, self._stop_tokens = decoder, parser, stop_tokens
        self._words = StopWords(stop_words)
        self._stopped = False
        self._last: Part | None = None
        self._calls = False

    @property
    def done(self) -> bool:
        """Whether the answer has ended by itself."""
        return self._stopped or self._words.ended or self._parser.done

    @property
    def finish_reason(self) -> FinishReason:
        """OpenAI's finish reason; `length` where the answer was cut."""
        if self._calls and (self.done or isinstance(self._last, ToolCall)):
            return "tool_calls"
        return "stop" if self.done else "length"

    def feed(self, token: int) -> list[Part]:
        """Add a token.

        Args:
            token: Its id.

        Returns:
            The parts of the answer that can no longer change.
        """
        if self.done:
            return []
        self.tokens += 1
        if token in self._stop_tokens:
            self._stopped = True
            return []
        return self._record(self._parser.feed(self._words.feed(self._decoder.feed(token))))

    def finish(self) -> list[Part]:
        """Return the parts held back, at the end of the answer."""
        rest = self._words.feed(self._decoder.rest()) + self._words.rest()
        return self._record([*self._parser.feed(rest), *self._parser.finish()])

    def _record(self, parts: list[Part]) -> list[Part]:
        for part in parts:
            self._last = part
            self._calls = self._calls or isinstance(part, ToolCall)
        return parts


def text_of(parts: Sequence[Part], kind: type[Content | Reasoning]) -> str:
    """Return the text of all parts of one kind.

    Args:
        parts: An answer's parts.
        kind: Content or reasoning.
    """
    return "".join(part.text for part in parts if isinstance(part, kind))


def _overlap(text: str, word: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `word`."""
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if word.startswith(text[-size:])), 0)
