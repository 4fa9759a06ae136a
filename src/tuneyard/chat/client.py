"""Questions to an endpoint: an answer as a stream, as a whole, or from two models at once.

The conversation's messages are the caller's; nothing is remembered here.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tuneyard.chat.endpoint import Endpoint, open_client
from tuneyard.chat.refusals import refusals

if TYPE_CHECKING:
    from openai import OpenAI

Message = Mapping[str, Any]
"""`{"role": …, "content": …}`, as in OpenAI's protocol."""


def ask(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> str:
    """Ask a model, and wait for its whole answer.

    Args:
        endpoint: Where it is served.
        model: Its name there.
        messages: The conversation so far; its last message is the question.
        max_tokens: The longest answer; the server's own limit where None.
        temperature: 0 for the same answer every time; the model's own setting where None.

    Returns:
        The answer's text.

    Raises:
        UnavailableError: The server can't be reached, or fails.
        DeniedError: It refuses the key.
        NotFoundError: It serves no model of that name.
        InvalidDataError: It can't take the messages.
    """
    with open_client(endpoint) as client, refusals(endpoint.url, model, target=endpoint.target):
        done = client.chat.completions.create(
            model=model, messages=_sent(messages), **_sampling(max_tokens, temperature)
        )
    return done.choices[0].message.content or ""


def ask_both(
    endpoint: Endpoint,
    messages: Sequence[Message],
    *,
    models: Sequence[str] | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
) -> dict[str, str]:
    """Ask base and tuned the same, both at once.

    Args:
        endpoint: Where they are served.
        messages: The conversation so far; its last message is the question.
        models: Two names; base and tuned where None.
        max_tokens: The longest answer.
        temperature: 0 for the same answers every time.

    Returns:
        The answers by the model's name, the base first.

    Raises:
        NotFoundError: There are no two to ask; and all that `ask` raises.
    """
    names = endpoint.chosen(models, compare=True)
    with ThreadPoolExecutor(len(names), thread_name_prefix="ask") as pool:
        futures = [
            pool.submit(ask, endpoint, name, messages, max_tokens=max_tokens, temperature=temperature) for name in names
        ]
        return {name: future.result() for name, future in zip(names, futures, strict=True)}


def chat_stream(
    client: OpenAI,
    model: str,
    messages: Sequence[Message],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    target: str = "",
) -> Generator[str, None, None]:
    """Ask a model, and give its answer piece by piece as it is made.

    Closing the generator closes the connection, and the server stops generating.

    Args:
        client: From `open_client`.
        model: The model's name there.
        messages: The conversation so far; its last message is the question.
        max_tokens: The longest answer; the server's own limit where None.
        temperature: 0 for the same answer every time; the model's own setting where None.
        target: As for `Endpoint`.

    Yields:
        Pieces of the answer, none of them empty.

    Raises:
        UnavailableError: The server can't be reached, or went away; and all else that `ask` raises.
    """
    with refusals(str(client.base_url).rstrip("/"), model, target=target):
        stream = client.chat.completions.create(
            model=model, messages=_sent(messages), stream=True, **_sampling(max_tokens, temperature)
        )
        with stream:
            for chunk in stream:
                piece = chunk.choices[0].delta.content if chunk.choices else None
                if piece:
                    yield piece


def _sent(messages: Sequence[Message]) -> Any:
    return [dict(message) for message in messages]


def _sampling(max_tokens: int | None, temperature: float | None) -> dict[str, Any]:
    given = {"max_tokens": max_tokens, "temperature": temperature}
    return {name: value for name, value in given.items() if value is not None}
