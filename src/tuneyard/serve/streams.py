"""Answers on their way out: a stream ends with `[DONE]`, and stop words end an answer without being part of it.

transformers stops at stop words and leaves them in; OpenAI's protocol leaves them out. So the end of a text that may be
the beginning of a stop word is held back until that is known.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator, Sequence
from typing import Any, cast

_DONE = "data: [DONE]\n\n"
_DATA = "data: "


class StopWords:
    """Passes text on up to the first stop word.

    Args:
        words: The stop words, none of them empty.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)
        self._held = ""
        self._ended = False

    def feed(self, text: str) -> str:
        """Take more text.

        Args:
            text: What was generated.

        Returns:
            What of all text so far can be shown now and was not before.
        """
        if self._ended:
            return ""
        self._held += text
        found = [at for word in self._words if (at := self._held.find(word)) >= 0]
        if found:
            self._ended = True
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


def cut_answer(answer: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Cut a whole answer before its first stop word.

    Args:
        answer: A chat completion or completion, as JSON.
        words: The stop words.

    Returns:
        The answer.
    """
    for holder, name in _texts(answer):
        stop = StopWords(words)
        holder[name] = stop.feed(holder[name]) + stop.rest()
    return answer


async def finished_stream(events: AsyncIterable[Any], words: Sequence[str]) -> AsyncIterator[str]:
    """Pass a stream on, cut before its first stop word and ended as OpenAI's clients expect.

    Args:
        events: Server-sent events from transformers' handlers, one or several to a piece.
        words: The stop words; none for none.

    Yields:
        Server-sent events.
    """
    stop = StopWords(words)
    try:
        async for piece in events:
            yield "".join(_cut(event, stop) for event in _split(cast("str", piece))) if words else piece
        yield _DONE
    finally:
        if isinstance(events, AsyncGenerator):  # so that generating ends with the stream
            await cast("AsyncGenerator[Any]", events).aclose()


def _split(piece: str) -> Iterator[str]:
    return (f"{event}\n\n" for event in piece.split("\n\n") if event)


def _cut(event: str, stop: StopWords) -> str:
    try:
        chunk: Any = json.loads(event.removeprefix(_DATA))
    except ValueError:
        return event
    choice = (chunk.get("choices") or [{}])[0]
    for holder, name in _texts(chunk):
        holder[name] = stop.feed(holder[name])
    if not choice.get("finish_reason"):
        return f"{_DATA}{json.dumps(chunk, ensure_ascii=False)}\n\n"
    rest = stop.rest()
    if not rest:
        return event
    # The last event has no text of its own in a chat: what was held back goes out in one before it.
    text = {"text": rest} if "text" in choice else {"delta": {"content": rest}}
    before = {**chunk, "choices": [{"index": 0, "finish_reason": None, **text}]}
    before.pop("usage", None)
    return f"{_DATA}{json.dumps(before, ensure_ascii=False)}\n\n{event}"


def _texts(chunk: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Find the texts of an answer or a part of one: the map that holds each, and the key in it."""
    for choice in cast("list[dict[str, Any]]", chunk.get("choices") or []):
        for holder, name in (
            (choice, "text"),
            (choice.get("delta") or {}, "content"),
            (choice.get("message") or {}, "content"),
        ):
            if isinstance(holder.get(name), str):
                yield holder, name


def _overlap(text: str, word: str) -> int:
    """The length of the longest end of `text` that `word` begins with."""
    return next((size for size in range(min(len(text), len(word) - 1), 0, -1) if word.startswith(text[-size:])), 0)
