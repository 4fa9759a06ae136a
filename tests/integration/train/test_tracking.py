"""`tracking`: a run's metrics are in MLflow, as the client of MLflow itself reads them, or it is refused beforehand."""

import os

import mlflow
import pytest
from training import changed, lay_out, metrics, train

from tuneyard.errors import InvalidValuesError
from tuneyard.train.tracking import check_tracking
from tuneyard.values import FinetuneValues, Tracking, check_values

TRACKING = "finetuning_config.tracking"
FILES = {"MLFLOW_ALLOW_FILE_STORE": "true"}  # MLflow's own server keeps runs in a database, which needs more packages


@pytest.fixture
def store(tmp_path):
    lay_out(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name, value in FILES.items():
        monkeypatch.setenv(name, value)
    return (tmp_path / "mlruns").as_uri()


NAMED = "finetuning_config.training_args.run_name"


def tracked(server, **more):
    return changed(
        **{NAMED: "of the arguments", TRACKING: {"mlflow_server_uri": server, "experiment_name": "yard", **more}}
    )


def test_every_logged_number_is_in_mlflow(store, server, tmp_path):
    train(tracked(server), store, tmp_path / "work", **FILES)
    client = mlflow.MlflowClient(server)
    (run,) = client.search_runs([client.get_experiment_by_name("yard").experiment_id])
    assert run.info.run_name == "of the arguments"
    assert run.info.status == "FINISHED"
    rows = metrics(store)
    for name in ("loss", "learning_rate", "eval_loss"):
        logged = [(row["step"], pytest.approx(row[name])) for row in rows if name in row and row["kind"] != "summary"]
        assert logged
        assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)] == logged


def test_a_run_of_mlflow_is_continued(store, server, tmp_path):
    client = mlflow.MlflowClient(server)
    run = client.create_run(client.create_experiment("yard"))
    train(tracked(server, run_id=run.info.run_id, run_name="second"), store, tmp_path / "work", **FILES)
    assert client.get_metric_history(run.info.run_id, "loss")


def test_a_server_that_is_away_ends_it_before_the_training_and_can_be_tried_again(store, tmp_path):
    said = train(tracked("http://127.0.0.1:9"), store, tmp_path / "work", code=8)
    assert f"error: The MLflow server of {TRACKING} can't be reached" in said
    assert not (store / "default-bucket/experiments").exists()


def checked(server, **more):
    tracking = {"mlflow_server_uri": server, "experiment_name": "yard", **more}
    check_tracking(Tracking.model_validate(tracking))


def test_what_mlflow_refuses_is_named(server):
    with pytest.raises(InvalidValuesError, match=rf"^{TRACKING}\.run_id: is refused by MLflow: Run '0+' not found"):
        checked(server, run_id="0" * 32)
    with pytest.raises(InvalidValuesError, match=rf"^{TRACKING}\.mlflow_server_uri: is refused by MLflow:"):
        checked("nonsense://x")


def test_the_check_leaves_mlflows_own_patience(server, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    checked(server)
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ


@pytest.mark.parametrize("asked", [True, "True", "yes", 1])
def test_copies_of_checkpoints_are_refused(asked):
    with pytest.raises(InvalidValuesError, match=r"tracking\.hf_mlflow_log_artifacts: is not done"):
        check_values(FinetuneValues, tracked("http://mlflow", hf_mlflow_log_artifacts=asked))
