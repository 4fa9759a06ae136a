"""Experiment trackers that a run reports to, checked before it starts.

transformers' own callbacks report. A tracker that is not available is an error while nothing is lost yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from tuneyard.errors import DeniedError, Problem, UnavailableError
from tuneyard.models import reason_of, unusable
from tuneyard.values import FinetuneValues, Tracking

_REPORT_TO = "finetuning_config.training_args.report_to"
_TRACKING = "finetuning_config.tracking"
_WAITS: Mapping[str, str] = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""Seconds and retries of MLflow's client, which would otherwise try for minutes; what the environment sets wins."""


def limit_waiting() -> None:
    """Limit how long MLflow's client in this process waits for a server that does not respond."""
    for name, value in _WAITS.items():
        os.environ.setdefault(name, value)


def configure_mlflow(tracking: Tracking) -> None:
    """Set what MLflow's client, which transformers calls, reads from the environment.

    Args:
        tracking: Where to log.
    """
    os.environ["MLFLOW_TRACKING_URI"] = tracking.mlflow_server_uri
    os.environ["MLFLOW_EXPERIMENT_NAME"] = tracking.experiment_name
    if tracking.run_id is not None:
        os.environ["MLFLOW_RUN_ID"] = tracking.run_id


def tracker_problems(values: FinetuneValues, names: Sequence[str]) -> Iterator[Problem]:
    """Build each tracker's callback, and send a request to an MLflow server.

    Args:
        values: The resolved values.
        names: The trackers, by transformers' names.

    Yields:
        Trackers that are unknown, whose package is not installed, or that refuse.

    Raises:
        UnavailableError: The MLflow server can't be reached, or fails.
        DeniedError: It refuses the credentials.
    """
    for name in names:
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except unusable() as error:
            yield Problem(_REPORT_TO, f"can't be used: {reason_of(error)}", name)
            continue
        if name == "mlflow":
            yield from _of_mlflow(values)


def _of_mlflow(values: FinetuneValues) -> Iterator[Problem]:
    """Check that the server responds, and that the run to continue exists."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    limit_waiting()
    tracking = values.finetuning_config.tracking
    where = f"{_TRACKING}.mlflow_server_uri" if tracking else "MLFLOW_TRACKING_URI"
    key, what = where, "does not name a usable MLflow server"
    try:
        client = MlflowClient(tracking_uri=tracking.mlflow_server_uri if tracking else None)
        client.search_experiments(max_results=1)
        if tracking and tracking.run_id is not None:
            key, what = f"{_TRACKING}.run_id", "is refused by MLflow"
            client.get_run(tracking.run_id)
    except (MlflowException, *unusable()) as error:
        status: int = error.get_http_status_code() if isinstance(error, MlflowException) else 400
        message = f"The MLflow server that {where} names can't be used: {reason_of(error)}"
        if status in (401, 403):
            hint = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in env."
            raise DeniedError(message, hint=hint) from None  # whose text has the address, credentials and all
        if status >= 500:
            hint = "Start the server, or remove tracking and mlflow from training_args.report_to. Nothing has started."
            raise UnavailableError(message, hint=hint) from None
        yield Problem(key, f"{what}: {reason_of(error)}")
