"""A minimal S3 client that signs single requests, for requests that no other client sends: a wrong checksum.

Tuneyard itself reads and writes through obstore, which sends correct requests only. Signature version 4 as in
Amazon's "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)". It neither retries nor
follows redirects.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from tuneyard.errors import UnavailableError

if TYPE_CHECKING:
    from tuneyard.store import S3Settings

_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Response:
    """A server's response.

    Attributes:
        status: The HTTP status.
        body: The body.
        headers: The headers, by lowercase name.
    """

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


class SigV4Client:
    """Sends signed requests to one S3 server.

    Args:
        settings: The server's settings, with static keys.
    """

    def __init__(self, settings: S3Settings) -> None:
        import httpx2

        assert settings.keys
        self._keys = settings.keys
        self._region = settings.region
        self._endpoint = settings.endpoint or f"https://s3.{settings.region}.amazonaws.com"
        self._client = httpx2.Client(
            verify=_ssl_context(settings.ca), timeout=_TIMEOUT_SECONDS, trust_env=not settings.proxy_url
        )

    def __enter__(self) -> SigV4Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._client.close()

    def send(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        payload_sha256: str = "",
    ) -> Response:
        """Send one request.

        Args:
            method: `PUT`, `POST`, `GET` or `DELETE`.
            key: `bucket/path`.
            query: The query's parameters.
            body: The body.
            headers: Additional headers, signed as well.
            payload_sha256: The SHA-256 to claim for the body; the correct one by default.

        Raises:
            UnavailableError: The server did not respond.
        """
        import httpx2

        path = "/" + quote(key, safe="/-_.~")
        text = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted((query or {}).items()))
        sent = {
            "host": urlsplit(self._endpoint).netloc,
            "x-amz-content-sha256": payload_sha256 or hashlib.sha256(body).hexdigest(),
            "x-amz-date": f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}",
            **({"x-amz-security-token": self._keys.session_token} if self._keys.session_token else {}),
            **(headers or {}),
        }
        sent["authorization"] = self._authorization(method, path, text, sent)
        url = f"{self._endpoint}{path}" + (f"?{text}" if text else "")
        try:
            response = self._client.request(method, url, content=body, headers=sent)
        except httpx2.TransportError as error:
            raise UnavailableError(f"The object store '{self._endpoint}' did not respond to a request.") from error
        return Response(response.status_code, response.content, {k.lower(): v for k, v in response.headers.items()})

    def _authorization(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> str:
        names = sorted(headers)
        signed = ";".join(names)
        lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
        canonical = "\n".join([method, path, query, lines, signed, headers["x-amz-content-sha256"]])
        date = headers["x-amz-date"]
        scope = f"{date[:8]}/{self._region}/s3/aws4_request"
        to_sign = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = b"AWS4" + self._keys.secret_access_key.encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
        credential = f"{self._keys.access_key_id}/{scope}"
        return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}"


def _ssl_context(ca_bundle: bytes | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_bundle:
        context.load_verify_locations(cadata=ca_bundle.decode("ascii", "ignore"))
    return context
