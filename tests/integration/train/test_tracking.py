"""`tracking`: a run's metrics are in MLflow, as the client of MLflow itself reads them, or it is refused beforehand."""

import mlflow
import pytest

from lab.training import changed, deliver_inputs, metrics, train
from tuneyard.errors import InvalidValuesError
from tuneyard.network.trackers import tracker_problems
from tuneyard.values import FinetuneValues, check_values

TRACKING = "finetuning_config.tracking"
FILES = {"MLFLOW_ALLOW_FILE_STORE": "true"}  # MLflow's own server keeps runs in a database, which needs more packages


@pytest.fixture
def store(tmp_path):
    deliver_inputs(tmp_path / "store")
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


def problems(server, **more):
    values = check_values(FinetuneValues, tracked(server, **more))
    return [(problem.where, problem.what) for problem in tracker_problems(values, ["mlflow"])]


def test_values_that_mlflow_refuses_are_named(server):
    assert problems(server) == []
    ((where, what),) = problems(server, run_id="0" * 32)
    assert where == f"{TRACKING}.run_id"
    assert "is refused by MLflow: Run '0000" in what
    ((where, what),) = problems("nonsense://x")
    assert where == f"{TRACKING}.mlflow_server_uri"
    assert "does not name a usable MLflow server" in what


@pytest.mark.parametrize("given", [True, "True", "yes", 1])
def test_copies_of_checkpoints_are_refused(given):
    with pytest.raises(InvalidValuesError, match=r"tracking\.hf_mlflow_log_artifacts: is not supported"):
        check_values(FinetuneValues, tracked("http://mlflow", hf_mlflow_log_artifacts=given))
