"""`tracking`: the MLflow server that transformers' callback logs to, checked before the training starts.

It sits beside `arguments`. MLflow is imported here alone, and only where values configure it.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from tuneyard.errors import InvalidValuesError, Problem, UnavailableError
from tuneyard.values import Tracking

_WHERE = "finetuning_config.tracking"
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Of the check alone, which nothing is lost by: MLflow's own would take minutes."""


def configure(tracking: Tracking) -> None:
    """Set what MLflow's client, which transformers calls, reads from the environment.

    Args:
        tracking: Where to log.
    """
    os.environ["MLFLOW_TRACKING_URI"] = tracking.mlflow_server_uri
    os.environ["MLFLOW_EXPERIMENT_NAME"] = tracking.experiment_name
    if tracking.run_id is not None:
        os.environ["MLFLOW_RUN_ID"] = tracking.run_id


def check_tracking(tracking: Tracking) -> None:
    """Check that the server answers and that the run to go on with exists.

    Args:
        tracking: Where to log.

    Raises:
        InvalidValuesError: MLflow refuses what is configured.
        UnavailableError: The server can't be reached.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    key = f"{_WHERE}.mlflow_server_uri"
    try:
        with _environment(_RETRIES):
            client = mlflow.MlflowClient(tracking.mlflow_server_uri)
            client.get_experiment_by_name(tracking.experiment_name)
            if tracking.run_id is not None:
                key = f"{_WHERE}.run_id"
                client.get_run(tracking.run_id)
    except MlflowException as error:
        reason = str(error).splitlines()[0][:300]
        if error.error_code in _AWAY:
            raise UnavailableError(
                f"The MLflow server of {_WHERE} can't be reached: {reason}",
                hint="Start it, or leave out finetuning_config.tracking; then launch the run again.",
            ) from error
        problem = Problem(key, f"is refused by MLflow: {reason}")
        raise InvalidValuesError(
            f"{problem}", hint="Change it, or leave out finetuning_config.tracking.", problems=[problem]
        ) from error


@contextmanager
def _environment(changes: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update({name: value for name, value in changes.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
