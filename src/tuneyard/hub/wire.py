"""One request to a Hub at a time, with limits on its response: redirects, bytes, time.

It goes through huggingface_hub's own session, so its proxies, certificates and `HF_HUB_OFFLINE` apply. Parsing is done
by `client` and `listing`, retrying by `retry_policy`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import httpx2
from huggingface_hub import errors as hf
from huggingface_hub.utils import get_session, hf_raise_for_status

from tuneyard.errors import UnavailableError
from tuneyard.hub.redirects import Redirects
from tuneyard.whereabouts import setting

_KEPT = (b"x-error-code", b"x-error-message", b"retry-after", b"x-request-id")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits on a Hub's responses.

    Attributes:
        redirects: How often a request may be redirected.
        head_seconds: How long the head of a response may take in all.
        answer_seconds: How long a page of the API may take.
        answer_bytes: How long such a page may be.
        pages: How many pages a listing may have.
        files: How many files a model may have.
        slow_seconds: A download that receives fewer than `slow_bytes` in this time has stalled.
        slow_bytes: See `slow_seconds`.
        bytes_per_try: A download may break off once per this many bytes, in addition to the attempts of `RetryPolicy`.
    """

    redirects: int = 10
    head_seconds: float = 60.0
    answer_seconds: float = 120.0
    answer_bytes: int = 32 * 1024 * 1024
    pages: int = 1_000
    files: int = 100_000
    slow_seconds: float = 60.0
    slow_bytes: int = 16_384
    bytes_per_try: int = 262_144


class Wire:
    """Sends requests to one Hub.

    Args:
        headers: Sent with each request; redirects to other hosts lose `Authorization`.
        redirects: The check of its redirects.
        limits: The limits on its responses.
    """

    def __init__(self, headers: Mapping[str, str], redirects: Redirects, limits: Limits) -> None:
        # Sizes on the wire have to be the files' own. Each response has a connection that can be closed with it.
        self._headers = {**headers, "Accept-Encoding": "identity", "Connection": "close"}
        self._redirects, self._limits = redirects, limits

    @contextlib.contextmanager
    def get(
        self, url: str, *, timeout: float, offset: int = 0, look: Callable[[httpx2.Headers], None] | None = None
    ) -> Generator[httpx2.Response]:
        """Send a GET request; read the response's body with `pieces`.

        Args:
            url: An address of the Hub.
            timeout: The longest time without a byte, in seconds.
            offset: Where in the body to begin.
            look: Called with the headers of each response from the Hub itself, as opposed to where it redirects to.

        Raises:
            DeniedError: It redirects to where it may not.
            UnavailableError: It redirects too often, or responds in an encoding that was not requested.
            HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError: As huggingface_hub's session raises them.
        """
        headers = {**self._headers, **({"Range": f"bytes={offset}-"} if offset else {})}
        client = get_session()
        request = client.build_request("GET", url, headers=headers, timeout=timeout)
        for _ in range(self._limits.redirects + 1):
            with _Watch(request, self._redirects, self._limits.head_seconds):
                response = client.send(request, stream=True, follow_redirects=False)
            try:
                if look is not None and self._redirects.is_own(request.url):
                    look(response.headers)
                following = response.next_request
                if following is None:
                    _raise_for_status(response)
                    _check_encoding(response)
                    yield response
                    return
            finally:
                response.close()
            self._redirects.check(following.url)
            request = following
        raise UnavailableError(
            f"'{url}' is redirected more than {self._limits.redirects} times.",
            hint=f"Check {setting('HF_ENDPOINT')} and the proxy in between.",
            url=url,
        )

    def get_json(self, url: str, *, timeout: float) -> tuple[Any, httpx2.Headers]:
        """Request a page of the API.

        Args:
            url: Its address.
            timeout: The longest time without a byte, in seconds.

        Returns:
            The parsed JSON, and the response's headers.

        Raises:
            ValueError: It is not JSON.
            UnavailableError: It is too long.
            DeniedError, HfHubHTTPError, OfflineModeIsEnabled, httpx2.HTTPError: As for `get`.
        """
        limits, body = self._limits, bytearray()
        until = time.monotonic() + limits.answer_seconds
        with self.get(url, timeout=timeout) as response:
            for piece in response.iter_raw():
                body += piece
                if len(body) > limits.answer_bytes:
                    raise UnavailableError(
                        f"The response of '{url}' is longer than {limits.answer_bytes} bytes, the limit for a Hub.",
                        hint=f"Check {setting('HF_ENDPOINT')}, and whether something else responds instead.",
                        url=url,
                    )
                if time.monotonic() > until:
                    raise httpx2.ReadTimeout(f"its response was not complete after {limits.answer_seconds:.0f} s")
        try:
            return json.loads(bytes(body)), response.headers
        except RecursionError as error:
            raise ValueError("nested too deeply") from error

    def pieces(self, response: httpx2.Response) -> Iterator[bytes]:
        """Stream a response's body as it is on the wire, as long as it arrives fast enough.

        Raises:
            httpx2.HTTPError: The connection broke off, or stalled.
        """
        waited, received = 0.0, 0
        began = time.monotonic()
        for piece in response.iter_raw():
            waited, received = waited + time.monotonic() - began, received + len(piece)
            if waited > self._limits.slow_seconds:
                if received < self._limits.slow_bytes:
                    raise httpx2.ReadTimeout(f"only {received} bytes arrived in {waited:.0f} s")
                waited, received = 0.0, 0
            yield piece
            began = time.monotonic()  # without the time that the reader takes


class _Watch:
    """Checks the address of a request's connection, and closes it when the head of the response takes too long."""

    def __init__(self, request: httpx2.Request, redirects: Redirects, seconds: float) -> None:
        self._url, self._redirects = request.url, redirects
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        request.extensions["trace"] = self._trace

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._timer.cancel()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Called by httpcore at each step of a request."""
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        stream = info["return_value"]
        self._socket = stream.get_extra_info("socket")
        try:
            self._redirects.check_reached(self._url, str(stream.get_extra_info("server_addr")[0]))
        except BaseException:
            stream.close()
            raise

    def _end(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # the plain socket's: SSLSocket's own would pull the object away from under the reader
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _raise_for_status(response: httpx2.Response) -> None:
    """Raise as huggingface_hub does, but from the headers alone: the body of an error response may never end."""
    if response.is_success:
        return
    headers = [(name, value) for name, value in response.headers.raw if name.lower() in _KEPT]
    plain = httpx2.Response(response.status_code, headers=headers, content=b"", request=response.request)
    hf_raise_for_status(plain)
    raise hf.HfHubHTTPError(f"HTTP {response.status_code}", response=plain)


def _check_encoding(response: httpx2.Response) -> None:
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnavailableError(
            f"'{response.request.url.host}' responds in the encoding {encoding[:40]!r}, which was not requested.",
            hint="A proxy in between changes responses; run it again without it.",
        )
