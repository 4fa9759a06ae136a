"""Turns what the Hub's library raises into Tuneyard's errors: missing, denied and unavailable stay three things."""

from __future__ import annotations

import httpx2
from huggingface_hub import errors as hf

from tuneyard.errors import DeniedError, InvalidValuesError, NotFoundError, Problem, TuneyardError, UnavailableError
from tuneyard.whereabouts import assignment, fitting, setting

_INVALID_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105  (the Hub's words for a token it refuses)


def refusal(error: Exception, *, model_id: str, revision: str, endpoint: str, with_token: bool) -> TuneyardError:
    """Return Tuneyard's error for a failed request to the Hub.

    Args:
        error: What the Hub's library or its HTTP client raised.
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
            f"The model {model_id} can't be fetched from {endpoint}: HF_HUB_OFFLINE is set.",
            hint=f"Unset {setting('HF_HUB_OFFLINE')}, or deliver from "
            + fitting("a local folder: modelID: ./folder", "the store: modelID: s3://bucket/path"),
            **facts,
        )
    if isinstance(error, hf.HfHubHTTPError):
        return _answered(error, model_id, revision, endpoint, page, with_token=with_token)
    if isinstance(error, httpx2.HTTPError):
        return UnavailableError(
            f"The Hub at {endpoint} can't be reached: {_words(error)}.",
            hint=f"Check the network, {setting('HF_ENDPOINT')} and the proxy ({setting('HTTPS_PROXY')}, "
            f"{setting('SSL_CERT_FILE')}), and run it again.",
            **facts,
        )
    return UnavailableError(
        f"What answers at {endpoint} is not a Hub: its answer about {model_id} can't be read.",
        hint=f"Check {setting('HF_ENDPOINT')}, and whether a proxy or a login page answers in its place.",
        **facts,
    )


def invalid_id(model_id: str) -> InvalidValuesError:
    """Return the error for a text that can't be a model's id on the Hub."""
    allowed = "name or organisation/name (letters, digits, `-`, `_`, `.`), ./folder, /folder, s3://bucket/prefix"
    problem = Problem(where="modelID", what="is not a model's id", value=model_id, allowed=allowed)
    return InvalidValuesError(
        f"{model_id!r} can't be a model on the Hub.", hint=f"A modelID is one of: {allowed}.", problems=[problem]
    )


def _answered(
    error: hf.HfHubHTTPError, model_id: str, revision: str, endpoint: str, page: str, *, with_token: bool
) -> TuneyardError:
    status = error.response.status_code
    facts = {"model_id": model_id, "revision": revision, "endpoint": endpoint, "status": status}
    if isinstance(error, hf.GatedRepoError):
        hint = f"Accept its terms at {page}"
        hint += " with the account that the token belongs to." if with_token else f", then {_give_token()}."
        return DeniedError(
            f"The model {model_id} is gated: {endpoint} requires that its terms are accepted.", hint=hint, **facts
        )
    if isinstance(error, hf.RevisionNotFoundError):
        return NotFoundError(
            f"The model {model_id} has no revision {revision!r} on {endpoint}.",
            hint=f"See its branches and tags at {page}/tree/main, and set modelRevision to one of them or a commit.",
            **facts,
        )
    if isinstance(error, hf.EntryNotFoundError):
        return NotFoundError(
            f"A file of {model_id} is listed at {revision} but not there on {endpoint}.",
            hint=f"Look at {page}/tree/{revision}; run it again, or choose another modelRevision.",
            **facts,
        )
    if status == 401 and error.response.headers.get("X-Error-Message") == _INVALID_TOKEN:
        return DeniedError(
            f"{endpoint} refuses the token that was sent for {model_id}.",
            hint=f"Put a valid token into {setting('HF_TOKEN')} (page: /settings/tokens); a public model needs none.",
            **facts,
        )
    if isinstance(error, hf.RepositoryNotFoundError) or status == 404:
        hint = f"Check the spelling at {page}"
        hint += f"; a private model needs a token with access to it{'' if with_token else f': {_give_token()}'}."
        return NotFoundError(f"There is no model {model_id} on {endpoint}.", hint=hint, **facts)
    if isinstance(error, hf.DisabledRepoError) or status in {401, 403}:
        hint = f"Open {page} to see what it requires" + ("." if with_token else f", and {_give_token()}.")
        return DeniedError(f"{endpoint} does not give out the model {model_id} (HTTP {status}).", hint=hint, **facts)
    if status == 429:
        return UnavailableError(
            f"{endpoint} limits the rate of requests and did not give out {model_id} (HTTP 429).",
            hint="Wait some minutes and run it again; files that are there already are not fetched again.",
            **facts,
        )
    return UnavailableError(
        f"The Hub at {endpoint} failed with HTTP {status} for {model_id}.",
        hint="Run it again in a while; files that are there already are not fetched again.",
        **facts,
    )


def _give_token() -> str:
    return f"give a token: {assignment('HF_TOKEN', '…')}"


def _words(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".") or type(error).__name__
