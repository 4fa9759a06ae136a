"""What a server answers instead of an answer, turned into Tuneyard's errors. The only place that knows openai's own."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from tuneyard.errors import DeniedError, InvalidDataError, NotFoundError, Problem, TuneyardError, UnavailableError


@contextmanager
def refusals(url: str, model: str = "", *, target: str = "") -> Generator[None]:
    """Turn what openai and httpx raise in the `with` block into Tuneyard's errors.

    Args:
        url: The server, for the error's words.
        model: The model that is asked, for the same.
        target: What a command adds to reach the server's target, for the hint.

    Raises:
        UnavailableError: It can't be reached, went away, or failed.
        DeniedError: It refuses the key.
        NotFoundError: It does not serve the model.
        InvalidDataError: It can't take the messages.
    """
    import httpx2
    import openai

    see = _see(target)
    try:
        yield
    except openai.APIStatusError as error:
        raise _refused(url, model, error.status_code, _words(error.body, error.message), target) from error
    except (openai.APIConnectionError, httpx2.TransportError) as error:
        cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            what = "can't be reached"
        elif isinstance(cause, httpx2.TimeoutException):
            what = "has not answered in time"
        else:
            what = "went away in the middle of its answer"
        raise UnavailableError(f"The server at {url} {what}.", hint=see, url=url) from error
    except openai.APIError as error:
        raise UnavailableError(f"The server at {url} gave no answer: {error.message}", hint=see, url=url) from error
    except ValueError as error:  # a stream that is no JSON
        raise UnavailableError(f"The server at {url} answers in no form that is known.", hint=see, url=url) from error


def _words(body: object, otherwise: str) -> str:
    """The server's own sentence, as OpenAI's servers wrap it."""
    if isinstance(body, dict):
        message = cast("dict[str, Any]", body).get("message")
        if isinstance(message, str) and message:
            return message
    return otherwise


def _see(target: str) -> str:
    return f"See whether it runs, and its log: tuneyard runs{target}; tuneyard logs NAME{target}"


def _refused(url: str, model: str, status: int, words: str, target: str) -> TuneyardError:
    if status in (401, 403):
        lies = "api_key_secret" if target else "api_key_file"
        return DeniedError(
            f"The server at {url} refuses the key.",
            hint=f"Give the server's own: tuneyard runs{target} --json names where it lies, as {lies}.",
            url=url,
        )
    if status == 404:
        what = f"the model {model!r}" if model else "its list of models"
        return NotFoundError(
            f"The server at {url} does not have {what}: {words}",
            hint=f"See the names: tuneyard runs{target}",
            url=url,
            model=model,
        )
    if status == 429 or status >= 500:
        return UnavailableError(
            f"The server at {url} failed: {words}",
            hint=_see(target),
            url=url,
            status=status,
        )
    return InvalidDataError(
        f"The server at {url} can't take this: {words}",
        hint="Ask something shorter, or begin anew with /reset." if "token" in words else "",
        problems=[Problem("messages", words)],
        url=url,
    )
