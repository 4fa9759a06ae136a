"""Translation of the errors of openai and httpx into Tuneyard's. No other module knows openai's errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from tuneyard.errors import DeniedError, InvalidDataError, NotFoundError, Problem, TuneyardError, UnavailableError


@contextmanager
def translate_errors(url: str, model: str = "", *, target: str = "") -> Generator[None]:
    """Translate the errors of openai and httpx within a `with` block.

    Args:
        url: The server's URL, for messages.
        model: The requested model, for messages.
        target: The options that select the server's target, for hints.

    Raises:
        UnavailableError: The server can't be reached, disconnected, or failed.
        DeniedError: The server refuses the key.
        NotFoundError: The server does not have the model.
        InvalidDataError: The server refuses the messages.
    """
    import httpx2
    import openai

    hint = _hint(target)
    try:
        yield
    except openai.APIStatusError as error:
        raise _translate_status(
            url, model, error.status_code, _server_message(error.body, error.message), target
        ) from error
    except (openai.APIConnectionError, httpx2.TransportError) as error:
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            what = "can't be reached"
        elif isinstance(cause, httpx2.TimeoutException):
            what = "did not answer in time"
        else:
            what = "disconnected in the middle of its answer"
        raise UnavailableError(f"The server at '{url}' {what}.", hint=hint, url=url) from error
    except openai.APIError as error:
        raise UnavailableError(
            f"The server at '{url}' sent no response: {error.message}", hint=hint, url=url
        ) from error
    except ValueError as error:  # a stream that is not JSON
        raise UnavailableError(
            f"The server at '{url}' sent a response that is not JSON.", hint=hint, url=url
        ) from error


def _server_message(body: object, otherwise: str) -> str:
    """Return the server's own message, as OpenAI's protocol wraps it."""
    if isinstance(body, dict):
        message = cast("dict[str, Any]", body).get("message")
        if isinstance(message, str) and message:
            return message
    return otherwise


def _hint(target: str) -> str:
    return f"Check its state and its log: tuneyard runs{target}; tuneyard logs NAME{target}"


def _translate_status(url: str, model: str, status: int, message: str, target: str) -> TuneyardError:
    if status in (401, 403):
        field = "api_key_secret" if target else "api_key_file"
        return DeniedError(
            f"The server at '{url}' refuses the key.",
            hint=f"Use the server's own key; its location is '{field}' in: tuneyard runs{target} --json",
            url=url,
        )
    if status == 404:
        what = f"the model {model!r}" if model else "its list of models"
        return NotFoundError(
            f"The server at '{url}' does not have {what}: {message}",
            hint=f"List the servers: tuneyard runs{target}",
            url=url,
            model=model,
        )
    if status == 429 or status >= 500:
        return UnavailableError(
            f"The server at '{url}' failed: {message}",
            hint=_hint(target),
            url=url,
            status=status,
        )
    return InvalidDataError(
        f"The server at '{url}' refuses the request: {message}",
        hint="Shorten the question, or start over with /reset." if "token" in message else "",
        problems=[Problem("messages", message)],
        url=url,
    )
