"""The probe of a store, against real servers and against fakes with one flaw each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from lab.racy_s3 import Flaw, racy_s3
from lab.s3_servers import BUCKET, S3Server
from tuneyard.diagnosis import Report, probe_store

KEYS = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_REGION": "us-east-1"}


def _degraded(report: Report) -> list[str]:
    return [mode["name"] for mode in report.facts["degraded"]]


def _not_ok(report: Report) -> dict[str, str]:
    return {check.name: check.outcome for check in report.checks if check.outcome != "ok"}


@pytest.mark.s3
@pytest.mark.parametrize("name", ["minio-tls", "versitygw"])
def test_a_conforming_server_is_used_in_full_mode(name: str, s3_server_of: Callable[[str], S3Server]):
    server = s3_server_of(name)
    before = {info.key for info in server.open().list(f"{BUCKET}/")}

    report = probe_store(server.url, environ=server.env)

    assert _not_ok(report) == {}
    assert (report.facts["mode"], _degraded(report), report.exit_code) == ("full", [], 0)
    assert len(report.checks) == 12
    assert (
        "exactly one of 32 concurrent writes succeeded in each of 20 rounds" in report.named("conditional create").found
    )
    assert {info.key for info in server.open().list(f"{BUCKET}/")} == before


@pytest.mark.s3
def test_the_report_identifies_the_server(s3_server_of: Callable[[str], S3Server]):
    minio = s3_server_of("minio-tls")
    versitygw = s3_server_of("versitygw")
    reports = [probe_store(server.url, environ=server.env, rounds=1) for server in (minio, versitygw)]
    with racy_s3("racing writes") as (url, _):
        reports.append(probe_store(url, environ=KEYS, rounds=1))
    assert [report.facts["server"].strip() for report in reports] == ["MinIO", "VERSITYGW", "racy-s3"]
    assert [report.facts["mode"] for report in reports] == ["full", "full", "degraded"]
    nested = [report.named("keys below an object").found for report in reports]
    assert "allowed" in nested[0] and "refused" in nested[1]


def test_a_fake_server_without_a_flaw_conforms():
    with racy_s3() as (url, objects):
        report = probe_store(url, environ=KEYS)
        assert _not_ok(report) == {}
        assert report.facts["mode"] == "full"
        assert objects == {}


BROKEN: dict[Flaw, tuple[str, str, list[str], dict[str, str]]] = {
    "racing writes": (
        "conditional create",
        "concurrent writes succeeded in",
        ["single-writer"],
        {"conditional create": "warning", "conditional replace": "warning"},
    ),
    "ignores If-None-Match": (
        "conditional create",
        "If-None-Match is ignored",
        ["single-writer"],
        {"conditional create": "warning"},
    ),
    "ignores If-Match": (
        "conditional replace",
        "If-Match is ignored",
        ["single-writer"],
        {"conditional replace": "warning"},
    ),
    "accepts wrong checksums": (
        "wrong checksums",
        "x-amz-checksum-sha256",
        ["unchecked-uploads"],
        {"wrong checksums": "warning"},
    ),
    "keeps aborted uploads": ("aborted upload", "remain", ["leftover-parts"], {"aborted upload": "warning"}),
    "unsorted listing": ("order of listing", "not sorted", [], {"order of listing": "warning"}),
    "stale listing": (
        "listing",
        "are not listed",
        [],
        {"odd key characters": "problem", "listing": "problem"},
    ),
    "stale listing after delete": (
        "listing",
        "still listed",
        [],
        {"read after write": "problem", "listing": "problem"},
    ),
    "truncated pages": ("listing", "5 of 1005 written objects are not listed", [], {"listing": "problem"}),
    "stale reads": ("read after write", "returns an older version", [], {"read after write": "problem"}),
    "ignores ranges": ("range reads", "wrong bytes", [], {"range reads": "problem"}),
}


def test_every_flaw_is_covered():
    assert set(BROKEN) == set(get_args(Flaw))


@pytest.mark.parametrize("flaw", BROKEN)
def test_a_flaw_is_reported_by_its_check(flaw: Flaw):
    name, text, degraded, not_ok = BROKEN[flaw]
    with racy_s3(flaw) as (url, objects):
        report = probe_store(url, environ=KEYS, rounds=3)
        assert objects == {}, "the probe leaves nothing behind, whatever the server lists"
    assert text in report.named(name).found
    assert report.named(name).advice or flaw == "unsorted listing"
    assert _not_ok(report).items() >= not_ok.items()
    if flaw != "stale reads":  # those break whatever reads what was just written
        assert _not_ok(report) == not_ok
    assert _degraded(report) == degraded
    unusable = "problem" in not_ok.values()
    assert report.facts["mode"] == ("unusable" if unusable else "degraded" if degraded else "full")
    assert (report.exit_code != 0) == unusable


def test_a_folder_is_probed(tmp_path: Path):
    report = probe_store(str(tmp_path))
    assert report.facts["mode"] == "full"
    assert _not_ok(report) == {"order of listing": "skipped", "wrong checksums": "skipped", "aborted upload": "skipped"}
    assert [path for path in (tmp_path / BUCKET).rglob("*") if path.is_file()] == []


@pytest.mark.s3
@pytest.mark.parametrize(
    ("changes", "exit_code", "text"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, 5, "does not accept the credentials"),
        ({"AWS_CA_BUNDLE": ""}, 8, "is not trusted"),
    ],
)
def test_a_rejected_connection_is_reported_with_its_reason(
    changes: dict[str, str], exit_code: int, text: str, s3_server_of: Callable[[str], S3Server]
):
    server = s3_server_of("minio-tls")
    report = probe_store(server.url, environ={**server.env, **changes})
    assert (report.exit_code, report.facts["mode"]) == (exit_code, "unusable")
    assert text in report.named("store").found
    assert report.named("store").advice


@pytest.mark.s3
def test_a_missing_bucket_is_reported(s3_server_of: Callable[[str], S3Server]):
    server = s3_server_of("minio-tls")
    report = probe_store(server.url, bucket="no-such-bucket", environ=server.env)
    assert report.exit_code == 4
    assert "There is no bucket 'no-such-bucket'" in report.named("store").found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_probe_leaves_nothing_behind(number: signal.Signals):
    with racy_s3() as (url, objects):
        command = [sys.executable, "-m", "tuneyard.diagnosis", "--store", url, "--rounds", "500"]
        process = subprocess.Popen(
            command, env={"PATH": os.environ["PATH"], **KEYS}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 300
        while not any("/create/" in key for key in objects):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], errors.decode()
        assert objects == {}


@pytest.mark.s3
def test_the_probe_in_a_pod_reads_keys_store_and_ca_bundle_from_its_environment(
    s3_server_of: Callable[[str], S3Server],
):
    server = s3_server_of("minio-tls")
    environ = {"PATH": os.environ["PATH"], "HOME": server.env["HOME"], "TUNEYARD_STORE": server.url}
    environ |= {name: server.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}

    def run(ca_bundle: Path | None) -> tuple[int, dict[str, object], str]:
        ran = subprocess.run(
            [sys.executable, "-m", "tuneyard.diagnosis", "--quick"],
            env={**environ, "TUNEYARD_CA_FILE": str(ca_bundle or "/no/such/file")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return ran.returncode, json.loads(ran.stdout), ran.stderr

    code, document, errors = run(server.ca_bundle)
    assert (code, document["mode"], errors) == (0, "full", "")
    code, document, _ = run(None)
    assert (code, document["mode"]) == (8, "unusable")
