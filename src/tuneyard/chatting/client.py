"""Requests to an endpoint: an answer as a stream, as a whole, or from two models at once.

The caller keeps the conversation's messages; nothing is stored here.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.chatting.errors import translate_errors

if TYPE_CHECKING:
    from openai import OpenAI

logger = logging.getLogger(__name__)

Message = Mapping[str, Any]
"""`{"role": …, "content": …}`, as in OpenAI's protocol."""

_CUT = "length"  # OpenAI's finish reason of an answer that ends at a limit


def ask(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> str:
    """Send messages to a model and wait for its whole answer.

    Args:
        endpoint: The server.
        model: The model's name there.
        messages: The conversation so far; its last message is the question.
        max_tokens: The most tokens of the answer; the server's limit where None.
        temperature: 0 for the same answer every time; the model's own setting where None.

    Returns:
        The answer's text. A warning is logged where it was cut at a limit.

    Raises:
        UnavailableError: The server can't be reached, or fails.
        DeniedError: The server refuses the key.
        NotFoundError: The server has no model of that name.
        InvalidDataError: The server refuses the messages.
    """
    with open_client(endpoint) as client, translate_errors(endpoint.url, model, target=endpoint.target):
        done = client.chat.completions.create(
            model=model, messages=_sent(messages), **_sampling(max_tokens, temperature)
        )
    if done.choices[0].finish_reason == _CUT:
        logger.warning(cut_note(model, max_tokens))
    return done.choices[0].message.content or ""


def ask_both(
    endpoint: Endpoint,
    messages: Sequence[Message],
    *,
    models: Sequence[str] | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> dict[str, str]:
    """Send the same messages to base and tuned model, both at once.

    Args:
        endpoint: The server.
        messages: The conversation so far; its last message is the question.
        models: Two names; base and tuned model where None.
        max_tokens: The most tokens of an answer.
        temperature: 0 for the same answers every time.

    Returns:
        The answers by the model's name, the base model's first.

    Raises:
        NotFoundError: There are no two models to compare; and everything that `ask` raises.
    """
    names = endpoint.chosen(models, compare=True)
    with ThreadPoolExecutor(len(names), thread_name_prefix="ask") as pool:
        futures = [
            pool.submit(ask, endpoint, name, messages, max_tokens=max_tokens, temperature=temperature) for name in names
        ]
        return {name: future.result() for name, future in zip(names, futures, strict=True)}


class AnswerStream:
    """An answer piece by piece.

    Args:
        pieces: The pieces, none of them empty; the generator returns whether the answer was cut.
    """

    def __init__(self, pieces: Generator[str, None, bool]) -> None:
        self.cut = False
        """Whether the answer ended at a limit; set after its last piece."""
        self._pieces = pieces

    def __iter__(self) -> Iterator[str]:
        self.cut = yield from self._pieces

    def close(self) -> None:
        """Close the connection, which ends the answer."""
        self._pieces.close()


def chat_stream(
    client: OpenAI,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    target: str = "",
) -> AnswerStream:
    """Send messages to a model and stream its answer.

    The request is sent when the first piece is requested. Closing the stream closes the connection, and the server
    stops generating.

    Args:
        client: From `open_client`.
        model: The model's name there.
        messages: The conversation so far; its last message is the question.
        max_tokens: The most tokens of the answer; the server's limit where None.
        temperature: 0 for the same answer every time; the model's own setting where None.
        target: As for `Endpoint`.

    Returns:
        The answer.

    Raises:
        UnavailableError: While it is read: the server can't be reached, or disconnected; and all that `ask` raises.
    """
    return AnswerStream(_pieces(client, model, messages, _sampling(max_tokens, temperature), target))


def _pieces(
    client: OpenAI, model: str, messages: Sequence[Message], sampling: Mapping[str, Any], target: str
) -> Generator[str, None, bool]:
    cut = False
    with translate_errors(str(client.base_url).rstrip("/"), model, target=target):
        stream = client.chat.completions.create(model=model, messages=_sent(messages), stream=True, **sampling)
        with stream:
            for chunk in stream:
                for choice in chunk.choices:
                    cut = cut or choice.finish_reason == _CUT
                    if choice.delta.content:
                        yield choice.delta.content
    return cut


def cut_note(model: str, max_tokens: int | None) -> str:
    """Write the note that an answer was cut.

    Args:
        model: The model's name.
        max_tokens: The requested limit; None where the context alone is the limit.
    """
    limit = "the model's context is full" if max_tokens is None else f"--max-tokens is {max_tokens}"
    return f"The answer of {model!r} was cut off: {limit}."


def _sent(messages: Sequence[Message]) -> Any:
    return [dict(message) for message in messages]


def _sampling(max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    given = {"max_tokens": max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}
