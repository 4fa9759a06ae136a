"""A model on the Hub: which commit a revision is, which files it has, and their bytes as streams.

It writes to neither the disk nor a store: `delivery` does. Requests go through huggingface_hub's own session and
headers, so `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, its timeouts and proxies apply as everywhere. The token is not
sent when a redirect leads to another host, as the Hub's redirects to its storage do. Responses are not trusted: `wire`
bounds them, `redirects` checks where they lead, `listing` parses them strictly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx2
from huggingface_hub import constants
from huggingface_hub import errors as hf
from huggingface_hub.utils import build_hf_headers, validate_repo_id

from tuneyard.errors import IntegrityError, TuneyardError, UnavailableError
from tuneyard.hub.listing import HubFile, is_commit, read_commit, read_row
from tuneyard.hub.redirects import Addresses, Redirects, look_up
from tuneyard.hub.refusals import invalid_id, refusal
from tuneyard.hub.retry_policy import RETRIED_STATUSES, RetryPolicy
from tuneyard.hub.wire import Limits, Wire
from tuneyard.whereabouts import setting

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model pinned to a commit.

    Attributes:
        model_id: `organisation/name`.
        revision: What was requested: a branch, a tag or a commit.
        commit: The commit that it resolved to, 40 hex digits.
        files: Every file of that commit, sorted by path.
    """

    model_id: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """A Hub, over HTTP.

    May be used from several threads at once.

    Args:
        endpoint: Its address; if None, `HF_ENDPOINT` or the public Hub.
        token: A token; if None, the one that huggingface_hub finds (`HF_TOKEN`, `HF_TOKEN_PATH`, a login).
        retry_policy: When to retry.
        limits: The limits on its responses.
        addresses: Resolves the names that it redirects to.
    """

    def __init__(
        self,
        *,
        endpoint: str | None = None,
        token: str | None = None,
        retry_policy: RetryPolicy | None = None,
        limits: Limits | None = None,
        addresses: Addresses = look_up,
    ) -> None:
        # Read now: huggingface_hub reads it once, when it is first imported.
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._retry_policy = retry_policy or RetryPolicy()
        self._headers: dict[str, str] = build_hf_headers(
            token=token, library_name="tuneyard", library_version=version("tuneyard")
        )
        self._limits = limits or Limits()
        self._wire = Wire(self._headers, Redirects(self.endpoint, addresses=addresses), self._limits)

    def resolve(self, model_id: str, revision: str) -> HubModel:
        """Pin a model's revision to a commit and list its files.

        Args:
            model_id: `organisation/name`, or `name` alone for the oldest models.
            revision: A branch, a tag or a commit; empty for the newest commit of the Hub's own default branch.

        Returns:
            The model at that commit.

        Raises:
            InvalidValuesError: The id is not valid.
            NotFoundError: There is no such model or revision.
            DeniedError: It is gated, or private, or the token is refused, or a redirect is not allowed.
            IntegrityError: A commit was requested, and the Hub returned another.
            UnavailableError: The Hub can't be reached, fails, or is disabled (`HF_HUB_OFFLINE`).
        """
        try:
            validate_repo_id(model_id)
        except hf.HFValidationError as error:
            raise invalid_id(model_id) from error
        api = f"{self.endpoint}/api/models/{model_id}"
        try:
            facts, _ = self._json(f"{api}/revision/{quote(revision, safe='')}" if revision else api)
            commit = read_commit(facts)
            if is_commit(revision) and commit != revision:
                raise self._wrong_commit(model_id, revision, commit)
            files = tuple(sorted(self._tree(f"{api}/tree/{commit}").values(), key=lambda file: file.path))
        except (
            hf.HfHubHTTPError,
            hf.OfflineModeIsEnabled,
            httpx2.HTTPError,
            ValueError,
            LookupError,
            TypeError,
            AttributeError,  # text where a map should be
        ) as error:
            if isinstance(error, TuneyardError):
                raise
            raise self._refusal(error, model_id, revision) from error
        return HubModel(model_id=model_id, revision=revision, commit=commit, files=files)

    def read(self, model: HubModel, file: HubFile) -> Iterator[bytes]:
        """Stream a file from the model's commit.

        A dropped connection is resumed at the byte where it broke off, as long as `RetryPolicy` allows. The bytes are
        not hashed here.

        Args:
            model: The model, as returned by `resolve`.
            file: One of its files.

        Yields:
            The file's bytes; `file.size` in all.

        Raises:
            IntegrityError: The Hub serves a different number of bytes than it declares.
            NotFoundError, DeniedError, UnavailableError: As for `resolve`.
        """
        url = f"{self.endpoint}/{model.model_id}/resolve/{model.commit}/{quote(file.path)}"
        offset = failures = breaks = 0
        while offset < file.size:
            retry_after_seconds: float | None = None
            try:
                for chunk in self._ranged(url, offset, model, file):
                    offset, failures = offset + len(chunk), 0
                    yield chunk
                if offset >= file.size:
                    return
                why: str = "the connection ended early"
                problem: Exception = httpx2.RemoteProtocolError(why)
            except httpx2.TransportError as error:
                why, problem = _reason(error), error
            except hf.HfHubHTTPError as error:
                if error.response.status_code not in RETRIED_STATUSES:
                    raise self._refusal(error, model.model_id, model.commit) from error
                why, problem, retry_after_seconds = _reason(error), error, _retry_after(error.response)
            except (hf.OfflineModeIsEnabled, httpx2.HTTPError) as error:
                raise self._refusal(error, model.model_id, model.commit) from error
            failures, breaks = failures + 1, breaks + 1
            where = f"'{file.path}' at {offset} of {file.size} bytes"
            may_retry = breaks < self._retry_policy.attempts + file.size // self._limits.bytes_per_try
            if not may_retry or not self._retry_policy.wait(
                failures, f"{where}: {why}", retry_after_seconds=retry_after_seconds
            ):
                raise self._refusal(problem, model.model_id, model.commit) from problem

    def _ranged(self, url: str, offset: int, model: HubModel, file: HubFile) -> Iterator[bytes]:
        def look(headers: httpx2.Headers) -> None:
            commit = headers.get("X-Repo-Commit", model.commit)
            if is_commit(commit) and commit != model.commit:
                raise self._wrong_commit(model.model_id, model.commit, commit)
            linked = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
            if linked and file.sha256 and linked != file.sha256:
                raise _wrong_hash(file, self.endpoint, linked)

        with self._wire.get(url, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, offset=offset, look=look) as response:
            skip = _check_length(response, offset, file, self.endpoint)
            left = file.size - offset
            for piece in self._wire.pieces(response):
                chunk = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                if not chunk:
                    continue
                left -= len(chunk)
                if left < 0:
                    raise _wrong_size(file, self.endpoint, "more")
                yield chunk

    def _tree(self, url: str) -> dict[str, HubFile]:
        found: dict[str, HubFile] = {}
        query: str | None = "recursive=true&expand=false"
        pages = 0
        while query is not None:
            rows, query = self._json(f"{url}?{query}")
            if not isinstance(rows, list):
                raise TypeError("a tree is a list")
            for file in filter(None, map(read_row, cast("list[Any]", rows))):
                if file.path in found:
                    raise ValueError(f"{file.path} is listed twice")
                found[file.path] = file
            pages += 1
            if len(found) > self._limits.files or pages > self._limits.pages:
                raise UnavailableError(
                    f"'{self.endpoint}' lists more than {self._limits.files} files, or endless pages.",
                    hint=f"Check {setting('HF_ENDPOINT')}; a model with that many files can't be delivered.",
                )
        return found

    def _json(self, url: str) -> tuple[Any, str | None]:
        """Request JSON; also return the query of the next page's address, the only part of it that is used."""

        def request() -> tuple[Any, str | None]:
            document, headers = self._wire.get_json(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            following = httpx2.Response(200, headers=headers).links.get("next", {}).get("url")
            return document, None if following is None else urlsplit(following).query

        return self._with_retries(request)

    def _with_retries(self, request: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            retry_after_seconds: float | None = None
            try:
                return request()
            except httpx2.TransportError as error:
                problem: Exception = error
            except hf.HfHubHTTPError as error:
                if error.response.status_code not in RETRIED_STATUSES:
                    raise
                problem, retry_after_seconds = error, _retry_after(error.response)
            failures += 1
            why = f"'{self.endpoint}': {_reason(problem)}"
            if not self._retry_policy.wait(failures, why, retry_after_seconds=retry_after_seconds):
                raise problem

    def _wrong_commit(self, model_id: str, wanted: str, given: str) -> IntegrityError:
        return IntegrityError(
            f"'{self.endpoint}' returned the commit '{given}' of '{model_id}' instead of '{wanted}'.",
            hint=f"The Hub or a proxy in between is at fault; check {setting('HF_ENDPOINT')}, and run it again.",
            model_id=model_id,
            expected=wanted,
            found=given,
        )

    def _refusal(self, error: Exception, model_id: str, revision: str) -> TuneyardError:
        return refusal(
            error,
            model_id=model_id,
            revision=revision,
            endpoint=self.endpoint,
            with_token="authorization" in self._headers,
        )


def _check_length(response: httpx2.Response, offset: int, file: HubFile, endpoint: str) -> int:
    """Check the size that a response announces; return how many bytes precede the requested ones."""
    if response.status_code == 206:
        start, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if _is_number(total) and int(total) != file.size:
            raise _wrong_size(file, endpoint, total)
        if start.partition("-")[0] != str(offset):
            raise UnavailableError(
                f"'{endpoint}' returned a different part of '{file.path}' than requested.",
                hint="A cache or proxy in between may be at fault; run it again without it.",
                path=file.path,
            )
        return 0
    length = response.headers.get("Content-Length", "")
    if _is_number(length) and int(length) != file.size:
        raise _wrong_size(file, endpoint, length)
    return offset  # the server does not support ranges, and sends the whole file


def _wrong_size(file: HubFile, endpoint: str, served: str) -> IntegrityError:
    return IntegrityError(
        f"'{endpoint}' declares {file.size} bytes for '{file.path}' and serves {served}.",
        hint="Run it again; if the error persists, the file on the Hub or a proxy in between is damaged.",
        path=file.path,
        expected=file.size,
    )


def _wrong_hash(file: HubFile, endpoint: str, served: str) -> IntegrityError:
    return IntegrityError(
        f"'{endpoint}' lists '{file.path}' with the SHA-256 '{file.sha256}', and now announces {served[:80]!r}.",
        hint="Run it again; if the error persists, the Hub or a proxy in between is at fault.",
        path=file.path,
        expected=file.sha256,
        found=served,
    )


def _retry_after(response: httpx2.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if _is_number(text) else None


def _is_number(text: str) -> bool:
    """Whether a header's text is digits alone; `str.isdigit` accepts more than int() does."""
    return text.isascii() and text.isdigit() and len(text) < 20


def _reason(error: Exception) -> str:
    if isinstance(error, hf.HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0] or type(error).__name__
