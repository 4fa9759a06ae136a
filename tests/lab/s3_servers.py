"""Real S3 servers for tests: `minio` and `versitygw`, over http and over TLS with a CA made here.

The binaries are taken from PATH, else from the cluster tools beside the repository; without either, tests that need
one are skipped, or fail where TUNEYARD_REQUIRE_S3=1. Each pytest process starts its own servers on free ports, each at
most once, and ends them when the session does.

Other tests take the fixture `s3_server` (one server, http, the quickest to start) or `s3_server_of("minio-tls")`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from lab import missing_tools
from tuneyard.store import Store, open_store

NAMES = ("minio", "minio-tls", "versitygw", "versitygw-tls")
ACCESS_KEY, SECRET_KEY = "tuneyard-tests", "not-a-secret-of-anyone"
BUCKET = "default-bucket"
_TOOLS = Path(__file__).parents[3] / "shared/cluster/tools"
_START_SECONDS = 180


@dataclass
class S3Server:
    """A running S3 server with one empty bucket."""

    name: str
    url: str
    ca_bundle: Path | None
    folder: Path
    bucket: str = BUCKET
    env: Mapping[str, str] = field(default_factory=dict)
    """What a process needs in its environment to use the server: keys, store and CA."""

    def open(self, **changes: str) -> Store:
        """Open it as a store, with some of `env` changed."""
        return open_store(self.url, environ={**self.env, **changes})

    def make_bucket(self, bucket: str) -> None:
        """Make a further bucket, with a presigned request."""
        client = S3Store(
            bucket,
            aws_endpoint_url_s3=self.url,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )
        url = obstore.sign(client, "PUT", "", timedelta(seconds=60))
        context = ssl.create_default_context(cafile=self.ca_bundle) if self.ca_bundle else None
        handlers = [urllib.request.ProxyHandler({})]
        if context:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(url, method="PUT")
        with urllib.request.build_opener(*handlers).open(request, timeout=60):
            pass


@pytest.fixture(scope="session")
def s3_server_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Server]]:
    """Return a function from a server's name (`NAMES`) to the running server."""
    with contextlib.ExitStack() as stack:
        running: dict[str, S3Server] = {}

        def server(name: str) -> S3Server:
            if name not in running:
                binary = find_binary(name.removesuffix("-tls"))
                folder = tmp_path_factory.mktemp(name)
                running[name] = stack.enter_context(serve(name, binary, folder))
            return running[name]

        yield server


@pytest.fixture(scope="session")
def s3_server(s3_server_of: Callable[[str], S3Server]) -> S3Server:
    """Return one running S3 server, over http."""
    return s3_server_of("minio")


def find_binary(name: str) -> str:
    """Find a server's program, or skip the test (or fail it, where TUNEYARD_REQUIRE_S3=1)."""
    found = shutil.which(name) or shutil.which(name, path=_tools_path())
    if found:
        return found
    if os.environ.get("TUNEYARD_REQUIRE_S3") == "1":
        pytest.fail(missing_tools.reason(name))
    pytest.skip(missing_tools.reason(name))


def _tools_path() -> str:
    if not _TOOLS.exists():
        return ""
    with (Path(tempfile.gettempdir()) / f"tuneyard-tools-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it unpacks, and several pytest processes may start at once
        ran = subprocess.run([str(_TOOLS)], capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r"export PATH=([^:\s]+):", ran.stdout)
    return found[1] if found else ""


@contextlib.contextmanager
def serve(name: str, binary: str, folder: Path) -> Iterator[S3Server]:
    certificates = make_certificates(folder / "certs") if name.endswith("-tls") else None
    data = folder / "data"
    data.mkdir()
    for attempt in range(5):  # another process may take the free port first
        port = _free_port()
        command, environ = _command(name, binary, data, port, certificates)
        url = f"{'https' if certificates else 'http'}://127.0.0.1:{port}"
        with (folder / f"log-{attempt}").open("wb") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=folder)
        try:
            if not _answers(process, url, certificates):
                continue
            server = S3Server(name=name, url=url, ca_bundle=certificates and certificates / "ca.pem", folder=data)
            server.env = _environment(server)
            server.make_bucket(BUCKET)
            yield server
            return
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    pytest.fail(f"{name} did not start: {(folder / 'log-4').read_text()[-2000:]}")


def _command(
    name: str, binary: str, data: Path, port: int, certificates: Path | None
) -> tuple[list[str], dict[str, str]]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MINIO_", "VGW_"))}
    address = f"127.0.0.1:{port}"
    if name.startswith("minio"):
        environ |= {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_BROWSER": "off"}
        command = [binary, "server", str(data), "--address", address]
        return command + (["--certs-dir", str(certificates)] if certificates else []), environ
    tls = ["--cert", f"{certificates}/public.crt", "--key", f"{certificates}/private.key"] if certificates else []
    keys = ["--access", ACCESS_KEY, "--secret", SECRET_KEY]
    return [binary, "--port", address, *keys, *tls, "posix", str(data)], environ


def _environment(server: S3Server) -> dict[str, str]:
    environ = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
        "TUNEYARD_STORE": server.url,
        "HOME": str(server.folder),  # nobody's own ~/.aws
    }
    return environ | ({"AWS_CA_BUNDLE": str(server.ca_bundle)} if server.ca_bundle else {})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(process: subprocess.Popen[bytes], url: str, certificates: Path | None) -> bool:
    context = ssl.create_default_context(cafile=certificates / "ca.pem") if certificates else None
    handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if context else [])]
    opener = urllib.request.build_opener(*handlers)
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            opener.open(url, timeout=10).close()
        except urllib.error.HTTPError as error:
            with error:
                if error.code < 500:  # 503 while it starts
                    return True
        except OSError:
            pass
        else:
            return True
        time.sleep(0.05)
    return False


def make_certificates(folder: Path) -> Path:
    """Make a CA (`ca.pem`) and a certificate for 127.0.0.1 that it signs (`public.crt`, `private.key`)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def sign(subject: str, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            issuer_name=name("Tuneyard test CA"),
            subject_name=name(subject),
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1),
            not_valid_after=now + timedelta(days=2),
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    folder.mkdir(parents=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    is_ca = x509.BasicConstraints(ca=True, path_length=None)
    is_leaf = x509.BasicConstraints(ca=False, path_length=None)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")])
    (folder / "ca.pem").write_bytes(sign("Tuneyard test CA", ca_key, (is_ca, True)))
    (folder / "public.crt").write_bytes(sign("127.0.0.1", key, (is_leaf, True), (names, False)))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "private.key").write_bytes(private)
    return folder
