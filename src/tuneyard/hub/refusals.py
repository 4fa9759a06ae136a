"""Turns the errors of the Hub's library into Tuneyard's: missing, denied and unavailable stay distinct."""

from __future__ import annotations

import httpx2
from huggingface_hub import errors as hf

from tuneyard.errors import DeniedError, InvalidValuesError, NotFoundError, Problem, TuneyardError, UnavailableError
from tuneyard.whereabouts import assignment, fitting, setting

_INVALID_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  (the Hub's text for a token it refuses)


def refusal(error: Exception, *, model_id: str, revision: str, endpoint: str, with_token: bool) -> TuneyardError:
    """Return Tuneyard's error for a failed request to the Hub.

    Args:
        error: The error of the Hub's library or its HTTP client.
        model_id: The requested model.
        revision: The requested branch, tag or commit.
        endpoint: The Hub's address.
        with_token: Whether a token was sent.

    Returns:
        The error to raise.
    """
    page = f"{endpoint}/{model_id}"
    facts = {"model_id": model_id, "revision": revision, "endpoint": endpoint}
    if isinstance(error, hf.OfflineModeIsEnabled):
        return UnavailableError(
            f"The model '{model_id}' can't be downloaded from '{endpoint}': HF_HUB_OFFLINE is set.",
            hint=f"Unset {setting('HF_HUB_OFFLINE')}, or deliver from "
            + fitting("a local folder: modelID: ./folder", "the store: modelID: s3://bucket/path"),
            **facts,
        )
    if isinstance(error, hf.HfHubHTTPError):
        return _answered(error, model_id, revision, endpoint, page, with_token=with_token)
    if isinstance(error, httpx2.HTTPError):
        return UnavailableError(
            f"The Hub at '{endpoint}' can't be reached: {_first_line(error)}.",
            hint=f"Check the network, {setting('HF_ENDPOINT')} and the proxy ({setting('HTTPS_PROXY')}, "
            f"{setting('SSL_CERT_FILE')}), and run it again.",
            **facts,
        )
    return UnavailableError(
        f"'{endpoint}' is not a Hub: its response about '{model_id}' can't be parsed.",
        hint=f"Check {setting('HF_ENDPOINT')}, and whether a proxy or a login page responds instead.",
        **facts,
    )


def invalid_id(model_id: str) -> InvalidValuesError:
    """Return the error for a text that is not a valid model id on the Hub."""
    allowed = "name or organisation/name (letters, digits, `-`, `_`, `.`), ./folder, /folder, s3://bucket/prefix"
    problem = Problem(where="modelID", what="is not a model's id", value=model_id, allowed=allowed)
    return InvalidValuesError(
        f"{model_id!r} is not a valid model id on the Hub.", hint=f"Allowed are: {allowed}.", problems=[problem]
    )


def _answered(
    error: hf.HfHubHTTPError, model_id: str, revision: str, endpoint: str, page: str, *, with_token: bool
) -> TuneyardError:
    status = error.response.status_code
    facts = {"model_id": model_id, "revision": revision, "endpoint": endpoint, "status": status}
    if isinstance(error, hf.GatedRepoError):
        hint = f"Accept its terms at {page}"
        hint += " with the account that the token belongs to." if with_token else f", then {_set_token()}."
        return DeniedError(
            f"The model '{model_id}' is gated: '{endpoint}' requires accepting its terms.", hint=hint, **facts
        )
    if isinstance(error, hf.RevisionNotFoundError):
        return NotFoundError(
            f"The model '{model_id}' has no revision {revision!r} on '{endpoint}'.",
            hint=f"See its branches and tags at {page}/tree/main, and set modelRevision to one of them or a commit.",
            **facts,
        )
    if isinstance(error, hf.EntryNotFoundError):
        return NotFoundError(
            f"A file of '{model_id}' is listed at '{revision}' but does not exist on '{endpoint}'.",
            hint=f"See {page}/tree/{revision}; run it again, or choose another modelRevision.",
            **facts,
        )
    if status == 401 and error.response.headers.get("X-Error-Message") == _INVALID_TOKEN:
        return DeniedError(
            f"'{endpoint}' refuses the token that was sent for '{model_id}'.",
            hint=f"Set {setting('HF_TOKEN')} to a valid token (page: /settings/tokens); a public model needs none.",
            **facts,
        )
    if isinstance(error, hf.RepositoryNotFoundError) or status == 404:
        hint = f"Check the spelling at {page}"
        hint += f"; a private model needs a token with access to it{'' if with_token else f': {_set_token()}'}."
        return NotFoundError(f"There is no model '{model_id}' on '{endpoint}'.", hint=hint, **facts)
    if isinstance(error, hf.DisabledRepoError) or status in {401, 403}:
        hint = f"Open {page} to see what it requires" + ("." if with_token else f", and {_set_token()}.")
        return DeniedError(f"'{endpoint}' denies access to the model '{model_id}' (HTTP {status}).", hint=hint, **facts)
    if status == 429:
        return UnavailableError(
            f"'{endpoint}' limits the rate of requests for '{model_id}' (HTTP 429).",
            hint="Wait a few minutes and run it again; downloaded files are kept.",
            **facts,
        )
    return UnavailableError(
        f"The Hub at '{endpoint}' failed with HTTP {status} for '{model_id}'.",
        hint="Run it again later; downloaded files are kept.",
        **facts,
    )


def _set_token() -> str:
    return f"set a token: {assignment('HF_TOKEN', '…')}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__
