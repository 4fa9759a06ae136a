"""The store on an S3 server (`s3://`, `https://host:port`), over obstore: AWS, MinIO or any other.

One obstore client per bucket, path style, created on first use. Only what every S3 server has is used: conditional puts
(`If-None-Match`, `If-Match`), multipart, bulk delete. `s3_settings` reads the configuration, `s3_errors` translates
errors; retries are obstore's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from tuneyard.errors import AlreadyExistsError, ChangedError, ConflictError, NotFoundError, UnavailableError
from tuneyard.store.keys import split_key, split_prefix
from tuneyard.store.limits import CHUNK_BYTES, PART_BYTES, STREAM_PARTS
from tuneyard.store.objects import Digest, ObjectInfo, Stored, sorted_by_key
from tuneyard.store.s3_errors import explain, missing, status_of
from tuneyard.store.s3_settings import S3Settings, read_settings

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import ClientConfig, S3Credential

_AWS = "s3://"
_FIRST_RETRIES = 4  # a wrong address fails within seconds; once a server has answered, an outage is waited for
_RETRY_FOR = timedelta(minutes=3)
_CONNECT_SECONDS = 3
_READ_SECONDS = 120  # also the limit for the upload of one part: 140 KB/s at least
_REQUEST_SECONDS = 24 * 3600  # obstore's 30 s would cut a long download short
_DELETE_AT_ONCE = 1000  # S3's own limit


class S3ServerStore:
    """A `Store` on one S3 server; the first part of each key is the bucket.

    Args:
        endpoint: `https://host:port` or `http://host:port`; empty for the one that the environment names, or AWS.
        ca_bundle: A PEM file of certificate authorities to trust besides the system's.
        environ: Where `AWS_*` is read from.
    """

    def __init__(self, endpoint: str, *, ca_bundle: Path | None, environ: Mapping[str, str]) -> None:
        self._settings = read_settings(endpoint, environ, ca_bundle)
        self._clients: dict[tuple[str, bool], S3Store] = {}
        self._lock = threading.Lock()
        self._reached = False

    @property
    def url(self) -> str:
        """The endpoint, or `s3://` for AWS."""
        return self._settings.endpoint or _AWS

    def __repr__(self) -> str:
        return f"S3ServerStore({self.url!r})"

    def local_path(self, key: str) -> None:
        """Return None: no object of a server is a local file."""
        split_key(key)

    def get(self, key: str) -> Stored:
        """Read a whole small object."""
        bucket, path = split_key(key)
        with self._explained(bucket, path):
            result = obstore.get(self._client(bucket), path)
            return Stored(body=result.bytes().to_bytes(), etag=result.meta["e_tag"] or "")

    def put(self, key: str, body: bytes) -> str:
        """Write a small object, replacing any other; atomic."""
        return self._put(key, body, "overwrite")

    def create(self, key: str, body: bytes) -> str:
        """Write a small object only where none exists; one writer wins."""
        try:
            return self._put(key, body, "create")
        except AlreadyExistsError as error:
            return self._etag_if_own(key, body, error)

    def replace(self, key: str, body: bytes, *, etag: str) -> str:
        """Replace the version of a small object that `etag` names; one writer wins."""
        try:
            return self._put(key, body, {"e_tag": etag})
        except ChangedError as error:
            return self._etag_if_own(key, body, error)

    def head(self, key: str) -> ObjectInfo:
        """Return an object's metadata."""
        bucket, path = split_key(key)
        client = self._client(bucket)
        with self._explained(bucket, path):
            try:
                return _info(bucket, obstore.head(client, path))
            except (BaseError, FileNotFoundError) as error:
                if 400 <= status_of(error) < 500:
                    # responses to HEAD have no body, and so no error code: a listing gets one
                    obstore.list_with_delimiter(client, path)
                if status_of(error) == 404:
                    raise missing(self.url, key) from error
                raise

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List every object under a prefix, sorted by key."""
        bucket, path = split_prefix(prefix)
        found: list[ObjectInfo] = []
        with self._explained(bucket, path):
            for batch in obstore.list(self._client(bucket), path or None, chunk_size=1000):
                found.extend(_info(bucket, meta) for meta in batch)
        return iter(sorted_by_key(found))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand per request, in their order; missing ones are ignored."""
        for bucket, group in itertools.groupby(map(split_key, keys), key=lambda pair: pair[0]):
            paths = [path for _, path in group]
            for start in range(0, len(paths), _DELETE_AT_ONCE):
                batch = paths[start : start + _DELETE_AT_ONCE]
                with self._explained(bucket, batch[0]):
                    obstore.delete(self._client(bucket), batch)

    def write(self, key: str, chunks: Iterable[bytes]) -> Digest:
        """Write an object of any size from a stream; atomic, at most `STREAM_PARTS` + 2 parts in memory."""
        bucket, path = split_key(key)
        stream = _Stream(chunks)
        first = stream.take(PART_BYTES)
        try:
            with self._explained(bucket, path):
                client = self._client(bucket)
                if stream.ended:
                    obstore.put(client, path, first, use_multipart=False)
                else:
                    parts = itertools.chain([first], stream)
                    del first
                    obstore.put(
                        client, path, parts, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=STREAM_PARTS
                    )
        except BaseException:
            if stream.failure:  # the iterator's own error, which only passed through obstore
                raise stream.failure from None
            raise
        return stream.digest()

    def read(self, key: str, *, offset: int = 0) -> Iterator[bytes]:
        """Read an object of any size as a stream; after a broken connection it continues within the same version."""
        bucket, path = split_key(key)
        with self._explained(bucket, path):
            try:
                client = self._client(bucket)
                options: Any = {"range": {"offset": offset}} if offset else None
                result = obstore.get(client, path, options=options)
            except BaseError as error:
                if offset and status_of(error) == 416:  # the object ends before the offset
                    return
                raise
            for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def _put(self, key: str, body: bytes, mode: PutMode) -> str:
        bucket, path = split_key(key)
        with self._explained(bucket, path):
            return obstore.put(self._client(bucket), path, body, mode=mode, use_multipart=False)["e_tag"] or ""

    def _etag_if_own(self, key: str, body: bytes, conflict: ConflictError) -> str:
        """Return the etag of an object that has just been sent; otherwise raise the conflict.

        A retried request finds its own first attempt if the response to that was lost.
        """
        with contextlib.suppress(NotFoundError):
            found = self.get(key)
            if found.body == body:
                return found.etag
        raise conflict

    def _client(self, bucket: str) -> S3Store:
        with self._lock:
            at = (bucket, self._reached)
            if at not in self._clients:
                self._clients[at] = _make_client(self._settings, bucket, reached=self._reached)
            return self._clients[at]

    @contextlib.contextmanager
    def _explained(self, bucket: str, path: str) -> Generator[None]:
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            explained = explain(error, self.url, bucket, path)
            self._reached = self._reached or not isinstance(explained, UnavailableError)
            raise explained from error
        self._reached = True


class _Stream:
    """Chunks to send: joined to parts, hashed, with the iterator's errors kept apart from the server's."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._sha256 = hashlib.sha256()
        self._size = 0
        self.ended = False
        self.failure: BaseException | None = None

    def take(self, size: int) -> bytearray:
        """Take at least `size` bytes, or the rest."""
        taken = bytearray()
        while len(taken) < size:
            try:
                taken += next(self)
            except StopIteration:
                break
        return taken

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except StopIteration:
            self.ended = True
            raise
        except BaseException as error:
            self.failure = error
            raise
        self._sha256.update(chunk)
        self._size += len(chunk)
        return chunk

    def digest(self) -> Digest:
        """Return the size and hash of all chunks so far."""
        return Digest(size=self._size, sha256=self._sha256.hexdigest())


def _make_client(settings: S3Settings, bucket: str, *, reached: bool) -> S3Store:
    client: ClientConfig = {
        "allow_http": settings.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=_READ_SECONDS),
        "timeout": timedelta(seconds=_REQUEST_SECONDS),
    }
    if settings.ca:
        client["root_certificate"] = settings.ca
    if settings.proxy_url:
        client["proxy_url"] = settings.proxy_url
        client["proxy_excludes"] = settings.host
    config: dict[str, Any] = {"aws_endpoint_url_s3": settings.endpoint} if settings.endpoint else {}
    return S3Store(
        bucket,
        region=settings.region,
        virtual_hosted_style_request=False,
        checksum_algorithm="SHA256",
        client_options=client,
        retry_config={
            "max_retries": settings.max_retries if reached else min(_FIRST_RETRIES, settings.max_retries),
            "retry_timeout": _RETRY_FOR,
        },
        credential_provider=_provider(settings),
        **config,
    )


def _provider(settings: S3Settings) -> Callable[[], S3Credential] | None:
    keys = settings.keys
    if keys is None:
        return None
    # a provider instead of options, which obstore would combine with AWS_SESSION_TOKEN of the process
    return lambda: {
        "access_key_id": keys.access_key_id,
        "secret_access_key": keys.secret_access_key,
        "token": keys.session_token,
        "expires_at": None,
    }


def _info(bucket: str, meta: Any) -> ObjectInfo:
    return ObjectInfo(
        key=f"{bucket}/{meta['path']}", size=meta["size"], etag=meta["e_tag"] or "", modified=meta["last_modified"]
    )
