"""Unreachable, denied and missing are distinct on both real servers, and a lost response is not a conflict."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from lab.fault_proxy import Fault, fault_proxy
from lab.s3_servers import ACCESS_KEY, SECRET_KEY, S3Server
from lab.web_servers import web_server
from tuneyard.errors import (
    AlreadyExistsError,
    ChangedError,
    DeniedError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
)
from tuneyard.store import FileEntry, Manifest, Store, hash_file, open_store, pull

VERBS: dict[str, Callable[[Store, str], object]] = {
    "get": lambda store, key: store.get(key),
    "put": lambda store, key: store.put(key, b"body"),
    "create": lambda store, key: store.create(key, b"body"),
    "replace": lambda store, key: store.replace(key, b"body", etag='"0123456789abcdef0123456789abcdef"'),
    "head": lambda store, key: store.head(key),
    "list": lambda store, key: list(store.list(key + "/")),
    "delete": lambda store, key: store.delete([key]),
    "write": lambda store, key: store.write(key, [b"x" * 9_000_000] * 3),
    "read": lambda store, key: list(store.read(key)),
}


def raised(verb: str, store: Store, key: str) -> TuneyardError:
    with pytest.raises(TuneyardError) as caught:
        VERBS[verb](store, key)
    error = caught.value
    assert SECRET_KEY not in f"{error.message}{error.hint}{error.details}"
    return error


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_bucket_is_not_found_by_name(server: S3Server, verb: str) -> None:
    error = raised(verb, server.open(), "no-such-bucket/key")
    assert isinstance(error, NotFoundError)
    assert "no bucket 'no-such-bucket'" in error.message
    assert server.url in error.message


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_denied_and_never_missing(server: S3Server, verb: str, wrong: str) -> None:
    error = raised(verb, server.open(**{wrong: "wrong-credential"}), f"{server.bucket}/never-there")
    assert isinstance(error, DeniedError)
    assert server.url in error.message
    assert "AWS_ACCESS_KEY_ID" in error.hint


@pytest.mark.parametrize("verb", VERBS)
def test_an_unreachable_server_is_unavailable(server: S3Server, verb: str) -> None:
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        error = raised(verb, open_store(url, environ=server.env), "default-bucket/key")
    assert isinstance(error, UnavailableError)
    assert url in error.message
    assert "connection refused" in error.message
    assert error.hint


def test_an_unknown_host_is_unavailable() -> None:
    environ = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "HOME": "/nowhere"}
    error = raised("get", open_store("http://no-such-host.invalid:9000", environ=environ), "default-bucket/key")
    assert isinstance(error, UnavailableError)


@pytest.mark.parametrize("name", ["minio-tls", "versitygw-tls"])
@pytest.mark.s3
def test_a_private_ca_has_to_be_configured(s3_server_of: Callable[[str], S3Server], name: str) -> None:
    server = s3_server_of(name)
    without = {key: value for key, value in server.env.items() if key != "AWS_CA_BUNDLE"}
    error = raised("get", open_store(server.url, environ=without), "default-bucket/key")
    assert isinstance(error, UnavailableError)
    assert "certificate" in error.message
    assert "AWS_CA_BUNDLE" in error.hint
    explicit = open_store(server.url, environ=without, ca_bundle=server.ca_bundle)
    assert list(explicit.list("default-bucket/nothing/")) == []


@pytest.mark.s3
def test_http_and_https_mixed_up_are_reported(s3_server_of: Callable[[str], S3Server]) -> None:
    plain, tls = s3_server_of("minio"), s3_server_of("minio-tls")
    spoken = raised("get", open_store(plain.url.replace("http", "https"), environ=plain.env), "default-bucket/key")
    assert "does not support TLS" in spoken.message
    assert plain.url in spoken.hint
    silent = raised("get", open_store(tls.url.replace("https", "http"), environ=tls.env), "default-bucket/key")
    assert isinstance(silent, UnavailableError)
    assert tls.url in silent.hint


def test_a_web_server_is_not_mistaken_for_an_empty_bucket() -> None:
    environ = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "HOME": "/nowhere"}
    with web_server(NotS3) as url:
        store = open_store(url, environ=environ)
        for verb in VERBS:
            error = raised(verb, store, "default-bucket/key")
            assert isinstance(error, UnavailableError), verb
            assert "not respond like an S3 server" in error.message


@pytest.mark.s3
def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert list(s3_server.open().list("default-bucket/nothing/")) == []


def test_a_lost_response_to_a_create_is_not_a_conflict(http_server: S3Server) -> None:
    key, body = f"default-bucket/lost/{secrets.token_hex(8)}", secrets.token_bytes(32)
    seen: list[str] = []
    with fault_proxy(http_server.url, faults(seen, "PUT", ["lost answer"])) as url:
        store = open_store(url, environ=http_server.env)
        etag = store.create(key, body)
        with pytest.raises(AlreadyExistsError):
            store.create(key, secrets.token_bytes(32))
    assert seen.count("PUT") == 3
    found = http_server.open().get(key)
    assert (found.body, found.etag) == (body, etag)


def test_a_lost_response_to_a_replace_is_not_a_conflict(http_server: S3Server) -> None:
    key, body = f"default-bucket/lost/{secrets.token_hex(8)}", secrets.token_bytes(32)
    before = http_server.open().put(key, b"before")
    seen: list[str] = []
    with fault_proxy(http_server.url, faults(seen, "PUT", ["lost answer"])) as url:
        store = open_store(url, environ=http_server.env)
        etag = store.replace(key, body, etag=before)
        with pytest.raises(ChangedError):
            store.replace(key, secrets.token_bytes(32), etag=before)
    assert seen.count("PUT") == 3
    found = http_server.open().get(key)
    assert (found.body, found.etag) == (body, etag)


def test_a_broken_download_resumes(http_server: S3Server, tmp_path: Path) -> None:
    prefix, manifest = put_one(http_server, tmp_path)
    seen: list[str] = []
    with fault_proxy(http_server.url, faults(seen, "GET", ["half the body", "unavailable"])) as url:
        folder = pull(open_store(url, environ=http_server.env), prefix, manifest, tmp_path / "pulled")
    assert hash_file(folder / "weights").sha256 == manifest.files[0].sha256
    assert seen.count("GET") == 3


def test_a_download_that_always_breaks_leaves_no_file(http_server: S3Server, tmp_path: Path) -> None:
    prefix, manifest = put_one(http_server, tmp_path)
    environ = {**http_server.env, "AWS_MAX_ATTEMPTS": "2"}
    with (
        fault_proxy(http_server.url, lambda method, path: "half the body" if method == "GET" else "none") as url,
        pytest.raises(UnavailableError),
    ):
        pull(open_store(url, environ=environ), prefix, manifest, tmp_path / "pulled")
    assert list((tmp_path / "pulled").iterdir()) == []


def test_an_unfinished_write_leaves_nothing(http_server: S3Server) -> None:
    prefix = f"default-bucket/broken/{secrets.token_hex(8)}/"
    environ = {**http_server.env, "AWS_MAX_ATTEMPTS": "2"}

    def no_second_part(method: str, path: str) -> Fault:
        return "unavailable" if "partNumber=2" in path else "none"

    with fault_proxy(http_server.url, no_second_part) as url:
        store = open_store(url, environ=environ)
        with pytest.raises(UnavailableError):
            store.write(prefix + "key", [secrets.token_bytes(1_000_000)] * 40)
    assert list(http_server.open().list(prefix)) == []


def test_an_invalid_bucket_name_is_refused(http_server: S3Server) -> None:
    assert isinstance(raised("get", http_server.open(), "Upper_Case/key"), InvalidValuesError)


def faults(seen: list[str], method: str, plan: list[Fault]) -> Callable[[str, str], Fault]:
    """Make the first requests of a method fail as planned, and count all."""
    left = list(plan)

    def fault(called: str, path: str) -> Fault:
        seen.append(called)
        return left.pop(0) if called == method and left else "none"

    return fault


def put_one(server: S3Server, tmp_path: Path) -> tuple[str, Manifest]:
    prefix = f"default-bucket/pulled/{secrets.token_hex(8)}/"
    (tmp_path / "weights").write_bytes(secrets.token_bytes(5_000_000))
    digest = hash_file(tmp_path / "weights")
    server.open().put(prefix + "weights", (tmp_path / "weights").read_bytes())
    return prefix, Manifest("model", (FileEntry("weights", digest.size, digest.sha256),))


class NotS3(BaseHTTPRequestHandler):
    """Answers every request unlike an S3 server: 404 with a page."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"<html>nothing here</html>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass
