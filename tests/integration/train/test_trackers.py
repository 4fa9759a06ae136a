"""A tracker that can't be reached is reported before the start; one that fails later costs no training.

MLflow's own client reports to a server of the test, which answers the part of MLflow's REST API that transformers uses.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.training import ARGUMENTS, VALUES, changed, deliver_inputs, metrics, train
from lab.written import Bench, Written

TRACKING = "finetuning_config.tracking"
SHORT = changed(VALUES, **{ARGUMENTS + "max_steps": 4, ARGUMENTS + "logging_steps": 1})
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0"}


class Server(http.server.ThreadingHTTPServer):
    """Answers MLflow's client for a number of batches of metrics, and records them."""

    daemon_threads = True

    def __init__(self, *, status: int = 200, batches: int = 1000) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.batches = status, batches
        self.logged: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = self.path.partition("/mlflow/")[2]
        if route == "runs/log-batch" and (names := [each["key"] for each in json.loads(body).get("metrics", ())]):
            if len(self.server.logged) >= self.server.batches:
                self.server.status = 500  # from here on
            self.server.logged.append(",".join(names))
        info = {"run_id": "a" * 32, "run_uuid": "a" * 32, "experiment_id": "1", "status": "RUNNING", "start_time": 1}
        run = {"info": {**info, "artifact_uri": "mlflow-artifacts:/1", "lifecycle_stage": "active"}, "data": {}}
        experiment = {"experiment_id": "1", "name": "x", "lifecycle_stage": "active", "artifact_location": "/"}
        answers = {
            "experiments/search": {"experiments": [experiment]},
            "experiments/get-by-name": {"experiment": experiment},
            "runs/create": {"run": run},
            "runs/get": {"run": run},
            "runs/update": {"run_info": run["info"]},
        }
        answer = json.dumps(answers.get(route.partition("?")[0], {}))
        text = answer.encode() if self.server.status == 200 else b"no"
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def mlflow(**given: int) -> Iterator[Server]:
    server = Server(**given)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def tracked(url: str) -> dict[str, object]:
    return {TRACKING: {"mlflow_server_uri": url, "experiment_name": "x"}}


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        (0, 8, "mlflow_server_uri names can't be used"),
        (503, 8, "mlflow_server_uri names can't be used"),
        (401, 5, "mlflow_server_uri names can't be used"),
        (404, 3, "mlflow_server_uri: does not name a usable MLflow server"),
    ],
)
def test_a_server_that_does_not_answer_is_reported_before_the_start(status, code, text, tmp_path, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    bench = Bench(tmp_path)
    with mlflow(status=status or 200) as server:
        url = server.url
        if status == 0:
            server.server_close()
        for outcome in (bench.plan(Written(tracked(url))), bench.train(Written(tracked(url)))):
            assert outcome.code == code, outcome.errors
            assert text in outcome.errors
            assert "report it" not in outcome.errors


def test_a_tracker_receives_the_log_of_a_run(tmp_path):
    deliver_inputs(tmp_path / "store")
    with mlflow() as server:
        log = train(changed(SHORT, **tracked(server.url)), tmp_path / "store", tmp_path / "work")
    assert any("loss" in names.split(",") for names in server.logged), log
    assert any("eval_loss" in names.split(",") for names in server.logged)


def test_a_server_that_fails_while_training_costs_one_line(tmp_path):
    deliver_inputs(tmp_path / "store")
    with mlflow(batches=1) as server:
        log = train(changed(SHORT, **tracked(server.url)), tmp_path / "store", tmp_path / "work", **QUICK)
    assert log.count("mlflow failed; nothing more of this run is reported to it") == 1, log
    assert "Finished: " in log
    whole = tmp_path / "whole"
    deliver_inputs(whole / "store")
    train(SHORT, whole / "store", whole / "work")
    assert metrics(tmp_path / "store") == metrics(whole / "store")
