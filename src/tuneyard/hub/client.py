"""A model on the Hub: which commit a revision is, which files it has, and their bytes as streams.

It keeps nothing on disk and writes to no store: `deliver` does. Requests go through huggingface_hub's own session and
headers, so `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`, its timeouts and proxies mean what they mean everywhere.
The session drops the token when a redirect leads to another host, as the Hub's redirects to its storage do.
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
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, validate_repo_id

from tuneyard.errors import IntegrityError, TuneyardError, UnavailableError
from tuneyard.hub.patience import RETRIED_STATUSES, Patience
from tuneyard.hub.refusals import invalid_id, refusal

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at a commit, with what the Hub declares of it.

    Attributes:
        path: Where it lies in the model's repository.
        size: Its size in bytes.
        sha256: Its SHA-256 where it is kept in LFS; None for a plain git file.
        git_blob: Its git blob id where it is a plain git file; None in LFS (the blob is then only a pointer).
    """

    path: str
    size: int
    sha256: str | None
    git_blob: str | None


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model pinned to a commit.

    Attributes:
        model_id: `organisation/name`.
        revision: What was asked for: a branch, a tag or a commit.
        commit: The commit that it was, 40 hex digits.
        files: Every file of that commit, sorted by path.
    """

    model_id: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]


class Hub:
    """A Hub, asked over HTTP.

    May be used from several threads at once.

    Args:
        endpoint: Its address; `HF_ENDPOINT` or the public Hub where None.
        token: A token; where None, what huggingface_hub finds (`HF_TOKEN`, `HF_TOKEN_PATH`, a login).
        patience: When to try again.
    """

    def __init__(
        self, *, endpoint: str | None = None, token: str | None = None, patience: Patience | None = None
    ) -> None:
        # Asked now: huggingface_hub reads it once, when it is first imported.
        self.endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._patience = patience or Patience()
        self._headers: dict[str, str] = build_hf_headers(
            token=token, library_name="tuneyard", library_version=version("tuneyard")
        )

    def resolve(self, model_id: str, revision: str) -> HubModel:
        """Pin a model's revision to a commit and list its files.

        Args:
            model_id: `organisation/name`, or `name` alone for the oldest models.
            revision: A branch, a tag or a commit; empty for the newest commit of the Hub's own default branch.

        Returns:
            The model at that commit.

        Raises:
            InvalidValuesError: The id can't be one.
            NotFoundError: There is no such model or revision.
            DeniedError: It is gated, or private, or the token is refused.
            UnavailableError: The Hub can't be reached, fails, or may not be asked (`HF_HUB_OFFLINE`).
        """
        try:
            validate_repo_id(model_id)
        except hf.HFValidationError as error:
            raise invalid_id(model_id) from error
        api = f"{self.endpoint}/api/models/{model_id}"
        try:
            facts, _ = self._json(f"{api}/revision/{quote(revision, safe='')}" if revision else api)
            commit = str(facts["sha"])
            files = tuple(sorted(self._tree(f"{api}/tree/{commit}"), key=lambda file: file.path))
        except (
            hf.HfHubHTTPError,
            hf.OfflineModeIsEnabled,
            httpx2.HTTPError,
            ValueError,
            LookupError,
            TypeError,
        ) as error:
            if isinstance(error, TuneyardError):
                raise
            raise self._refusal(error, model_id, revision) from error
        return HubModel(model_id=model_id, revision=revision, commit=commit, files=files)

    def read(self, model: HubModel, file: HubFile) -> Iterator[bytes]:
        """Stream a file from the model's commit.

        A dropped connection is taken up again at the byte it broke off, as long as `Patience` allows. The bytes are
        not hashed here.

        Args:
            model: The model, as `resolve` gave it.
            file: One of its files.

        Yields:
            The file's bytes; `file.size` in all.

        Raises:
            IntegrityError: The Hub serves another number of bytes than it declares.
            NotFoundError, DeniedError, UnavailableError: As for `resolve`.
        """
        url = f"{self.endpoint}/{model.model_id}/resolve/{model.commit}/{quote(file.path)}"
        offset = failures = 0
        while offset < file.size:
            asked_seconds: float | None = None
            try:
                for chunk in self._ranged(url, offset, file):
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
                why, problem, asked_seconds = _reason(error), error, _retry_after(error.response)
            except hf.OfflineModeIsEnabled as error:
                raise self._refusal(error, model.model_id, model.commit) from error
            failures += 1
            where = f"{file.path} at {offset} of {file.size} bytes"
            if not self._patience.wait(failures, f"{where}: {why}", asked_seconds=asked_seconds):
                raise self._refusal(problem, model.model_id, model.commit) from problem

    def _ranged(self, url: str, offset: int, file: HubFile) -> Iterator[bytes]:
        headers = {**self._headers, "Accept-Encoding": "identity"}  # a size on the wire has to be the file's own
        if offset:
            headers["Range"] = f"bytes={offset}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:
                raise _other_size(file, self.endpoint, f"fewer than {offset + 1}")
            hf_raise_for_status(response)
            skip = _check_length(response, offset, file, self.endpoint)
            left = file.size - offset
            for piece in response.iter_bytes():
                chunk = piece[skip:] if skip else piece
                skip = max(0, skip - len(piece))
                if not chunk:
                    continue
                left -= len(chunk)
                if left < 0:
                    raise _other_size(file, self.endpoint, "more")
                yield chunk

    def _tree(self, url: str) -> Iterator[HubFile]:
        page: str | None = f"{url}?recursive=true&expand=false"
        while page is not None:
            rows, page = self._json(page)
            for row in cast("list[dict[str, Any]]", rows):
                if row["type"] != "file":
                    continue
                lfs = row.get("lfs")
                yield HubFile(
                    path=str(row["path"]),
                    size=int(lfs["size"] if lfs else row["size"]),
                    sha256=str(lfs["oid"]).removeprefix("sha256:") if lfs else None,
                    git_blob=None if lfs else str(row["oid"]),
                )

    def _json(self, url: str) -> tuple[Any, str | None]:
        """Ask for JSON; also give the next page's address, always on this endpoint (the token goes along)."""

        def ask() -> tuple[Any, str | None]:
            response = get_session().get(url, headers=self._headers, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            hf_raise_for_status(response)
            following = response.links.get("next", {}).get("url")
            if following is None:
                return response.json(), None
            parts = urlsplit(following)
            base = urlsplit(self.endpoint)
            path = parts.path.removeprefix(base.path)
            return response.json(), f"{self.endpoint}{path}?{parts.query}"

        return self._patiently(ask)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        failures = 0
        while True:
            asked_seconds: float | None = None
            try:
                return ask()
            except httpx2.TransportError as error:
                problem: Exception = error
            except hf.HfHubHTTPError as error:
                if error.response.status_code not in RETRIED_STATUSES:
                    raise
                problem, asked_seconds = error, _retry_after(error.response)
            failures += 1
            why = f"{self.endpoint}: {_reason(problem)}"
            if not self._patience.wait(failures, why, asked_seconds=asked_seconds):
                raise problem

    def _refusal(self, error: Exception, model_id: str, revision: str) -> TuneyardError:
        return refusal(
            error,
            model_id=model_id,
            revision=revision,
            endpoint=self.endpoint,
            with_token="authorization" in self._headers,
        )


def _check_length(response: httpx2.Response, offset: int, file: HubFile, endpoint: str) -> int:
    """Check the size that an answer announces; give how many bytes come before the wanted ones."""
    if response.status_code == 206:
        start, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if total.isdigit() and int(total) != file.size:
            raise _other_size(file, endpoint, total)
        if start.partition("-")[0] != str(offset):
            raise UnavailableError(
                f"{endpoint} answered with another part of {file.path} than was asked for.",
                hint="A cache or proxy in between may be at fault; run it again without it.",
                path=file.path,
            )
        return 0
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) != file.size:
        raise _other_size(file, endpoint, length)
    return offset  # the whole file again: a server without ranges


def _other_size(file: HubFile, endpoint: str, served: str) -> IntegrityError:
    return IntegrityError(
        f"{endpoint} declares {file.size} bytes for {file.path} and serves {served}.",
        hint="Run it again; if it stays so, the file on the Hub or a proxy in between is damaged.",
        path=file.path,
        expected=file.size,
    )


def _retry_after(response: httpx2.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    return float(text) if text.isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, hf.HfHubHTTPError):
        return f"HTTP {error.response.status_code}"
    return (str(error).strip().splitlines() or [type(error).__name__])[0] or type(error).__name__
