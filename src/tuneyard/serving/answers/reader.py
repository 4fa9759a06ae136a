"""An answer's tokens on their way to its parts: decoded, ended before a stop word, and taken apart.

The same for a stream and for a whole answer, which is the parts of the stream put together. Stop words end an answer
without being part of it, so the end of a text that may be the beginning of one is held back until that is known.
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
        """Whether a stop word has come."""
        self._words = tuple(words)
        self._held = ""

    def feed(self, text: str) -> str:
        """Take more text.

        Args:
            text: What was generated.

        Returns:
            What of all text so far can be shown now and was not before.
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
        """Give what was held back, now that nothing comes any more."""
        held, self._held = self._held, ""
        return held


class AnswerReader:
    """Reads one answer, token by token.

    Args:
        decoder: Decodes its tokens.
        parser: Takes its text apart.
        stop_tokens: The tokens that end it.
        stop_words: The words that end it.
    """

    def __init__(
        self, decoder: TokenDecoder, parser: AnswerParser, *, stop_tokens: Collection[int], stop_words: Sequence[str]
    ) -> None:
        self.tokens = 0
        """How many tokens were generated, the one that ends the answer included."""
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
        """Why the answer has ended, in OpenAI's words; `length` where it was cut."""
        if self._calls and (self.done or isinstance(self._last, ToolCall)):
            return "tool_calls"
        return "stop" if self.done else "length"

    def feed(self, token: int) -> list[Part]:
        """Take one more token.

        Args:
            token: Its id.

        Returns:
            The parts of the answer that are certain now.
        """
        if self.done:
            return []
        self.tokens += 1
        if token in self._stop_tokens:
            self._stopped = True
            return []
        return self._noted(self._parser.feed(self._words.feed(self._decoder.feed(token))))

    def finish(self) -> list[Part]:
        """Return what was held back, now that nothing follows."""
        rest = self._words.feed(self._decoder.rest()) + self._words.rest()
        return self._noted([*self._parser.feed(rest), *self._parser.finish()])

    def _noted(self, parts: list[Part]) -> list[Part]:
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
    """The length of the longest end of `text` that `word` begins with."""
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if word.startswith(text[-size:])), 0)
