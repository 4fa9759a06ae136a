"""The checkpoints' protocol on every kind of store: a folder and both real S3 servers, with and without TLS."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.checkpoints import (
    experiment,
    is_checkpoint_of,
    make_checkpoint,
    no_damage,
    record,
)
from lab.fault_proxy import Fault, fault_proxy
from lab.killed_publisher import check_kill_trials, run_kill_trials
from lab.places import Place
from lab.s3_servers import S3Server
from tuneyard.checkpoints import METRICS_FILE, MetricsLog, Publisher, RetentionPolicy
from tuneyard.errors import DeniedError, IntegrityError, LostOwnershipError, NotFoundError, UnavailableError
from tuneyard.store import open_store

KEEP_ALL = RetentionPolicy(keep=None)


def prefix_of(place: Place) -> str:
    return place / "experiments/run"


def test_a_run_is_published_killed_resumed_pruned_and_finished(place: Place, tmp_path: Path) -> None:
    exp = experiment(place.store, prefix_of(place))
    assert exp.restore(tmp_path / "none", on_damage=no_damage) is None
    first = exp.claim(record(r=8))
    first.begin(None)
    metrics = MetricsLog(tmp_path / "metrics.jsonl")
    with Publisher(first, retention=RetentionPolicy(keep=1), metrics=metrics) as publisher:
        for step in (10, 20, 30):
            metrics.append({"step": step, "loss": 1 / step})
            folder = make_checkpoint(tmp_path / f"{step}", step)
            (folder / METRICS_FILE).write_bytes(metrics.snapshot())
            publisher.submit(folder, step, {"best": 10})
            publisher.flush(timeout_seconds=300)
    assert [ref.step for ref in exp.committed()] == [30, 10]

    second = exp.claim(record(r=8))
    restored = exp.restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert restored.best is not None
    rows = exp.rows_of(restored, on_damage=no_damage)
    for path in (restored.path, restored.best):
        (path / METRICS_FILE).unlink()
    assert is_checkpoint_of(restored.path, 30)
    assert is_checkpoint_of(restored.best, 10)
    second.begin(restored.ref)
    again = MetricsLog(tmp_path / "again.jsonl", rows=rows, up_to_step=20).rows()
    assert [row["step"] for row in again] == [10, 20]
    with pytest.raises(LostOwnershipError):
        first.publish(tmp_path / "20", 40, {"best": None})
    assert exp.finished() is None
    second.publish_final(tmp_path / "30", "checkpoint-final", {})
    assert exp.finished() is not None


def test_damage_falls_back_and_then_stops(place: Place, tmp_path: Path) -> None:
    exp = experiment(place.store, prefix_of(place))
    attempt = exp.claim(record())
    for step in (10, 20):
        attempt.publish(make_checkpoint(tmp_path / f"{step}", step), step, {"best": None})
    place.store.put(f"{prefix_of(place)}/checkpoint-20-1/optimizer.pt", b"damaged")
    notices: list[str] = []
    restored = exp.restore(tmp_path / "work", on_damage=notices.append)
    assert restored is not None
    assert restored.ref.step == 10
    assert "checkpoint-20-1/optimizer.pt" in notices[0]
    place.store.delete([f"{prefix_of(place)}/checkpoint-10-1/scheduler.pt"])
    with pytest.raises(IntegrityError) as caught:
        exp.restore(tmp_path / "fresh", on_damage=notices.append)
    assert caught.value.exit_code == 7
    assert "checkpoint-10-1/scheduler.pt" in notices[-1]


def test_eight_simultaneous_claims_get_eight_numbers(place: Place) -> None:
    start = threading.Barrier(8)

    def claim(_: int) -> int:
        start.wait()
        return experiment(place.store, prefix_of(place)).claim(record(r=8)).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(claim, range(8))) == list(range(1, 9))


@pytest.mark.s3
def test_the_newest_committed_checkpoint_on_s3_survives_8_kills(s3_server: S3Server, tmp_path: Path) -> None:
    _kill_trials(s3_server, tmp_path, trials=8)


@pytest.mark.s3
@pytest.mark.soak
def test_the_newest_committed_checkpoint_on_s3_survives_60_kills(server: S3Server, tmp_path: Path) -> None:
    _kill_trials(server, tmp_path, trials=60)


def _kill_trials(server: S3Server, tmp_path: Path, *, trials: int) -> None:
    prefix = f"{server.bucket}/kills-{tmp_path.name}/run"
    env = {**server.env, "PATH": os.environ["PATH"]}
    lines = run_kill_trials(server.url, prefix, tmp_path / "trials", trials=trials, seed=7, env=env)
    check_kill_trials(server.open(), prefix, tmp_path, lines)


def test_checkpoints_are_committed_when_every_response_is_lost_once(http_server: S3Server, tmp_path: Path) -> None:
    seen: set[str] = set()

    def plan(method: str, path: str) -> Fault:
        if method not in {"PUT", "POST"} or path in seen:
            return "none"
        seen.add(path)
        return "lost answer"

    prefix = f"{http_server.bucket}/lost-{tmp_path.name}/run"
    with fault_proxy(http_server.url, plan) as url:
        exp = experiment(open_store(url, environ=http_server.env), prefix)
        attempt = exp.claim(record())
        attempt.begin(None)
        with Publisher(attempt, retention=KEEP_ALL) as publisher:
            publisher.submit(make_checkpoint(tmp_path / "10", 10), 10, {"best": None})
            publisher.flush(timeout_seconds=120)
    assert any("manifest.json" in path for path in seen)
    restored = experiment(http_server.open(), prefix).restore(tmp_path / "work", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, 10)


def test_unreachable_denied_and_missing_are_not_a_fresh_start(http_server: S3Server, tmp_path: Path) -> None:
    prefix = f"{http_server.bucket}/three/run"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = open_store(f"http://127.0.0.1:{taken.getsockname()[1]}", environ=http_server.env)
        with pytest.raises(UnavailableError):
            experiment(nobody, prefix).restore(tmp_path / "work", on_damage=no_damage)
    with pytest.raises(DeniedError):
        denied = http_server.open(AWS_SECRET_ACCESS_KEY="wrong" * 8)
        experiment(denied, prefix).restore(tmp_path / "work", on_damage=no_damage)
    with pytest.raises(NotFoundError, match="no bucket 'no-such-bucket'"):
        experiment(http_server.open(), "no-such-bucket/run").claim(record())
