"""Runs: work that outlives its terminal; launched, listed, followed, stopped and deleted on a target.

    base, info, names   the `Runner` protocol, the state of a run, and which run a name refers to
    plans, forecast     from values to a launch, and to a forecast
    waiting, run        waiting for runs, and a handle on one
    published           what a run reads and publishes in the store
    targets             from a target to its runner
    local/              the runner of this machine
    kubernetes/         the runner of a cluster

Sits above the rooms that do the work (it starts them as processes and imports none of them) and below the client.
"""

from tuneyard.runners.base import STOP_SECONDS, Launch, Runner
from tuneyard.runners.forecast import Forecast, forecast
from tuneyard.runners.info import ENDED, VERBS, RunInfo, RunKey, RunProgress, Status, Verb
from tuneyard.runners.local import LocalRunner
from tuneyard.runners.names import check_name, find_run, nearest_name, parse_reference
from tuneyard.runners.plans import (
    Plan,
    Preview,
    Sources,
    load_finetune_values,
    plan_deliver,
    plan_finetune,
    plan_serve,
    preview,
)
from tuneyard.runners.run import Run
from tuneyard.runners.targets import Kubernetes, Target, cluster_of, runner_for, target_of
from tuneyard.runners.waiting import (
    RunEndedError,
    changes,
    find_server,
    is_ready,
    raise_if_not_succeeded,
    wait_until_ready,
)

__all__ = [
    "ENDED",
    "STOP_SECONDS",
    "VERBS",
    "Forecast",
    "Kubernetes",
    "Launch",
    "LocalRunner",
    "Plan",
    "Preview",
    "Run",
    "RunEndedError",
    "RunInfo",
    "RunKey",
    "RunProgress",
    "Runner",
    "Sources",
    "Status",
    "Target",
    "Verb",
    "changes",
    "check_name",
    "cluster_of",
    "find_run",
    "find_server",
    "forecast",
    "is_ready",
    "load_finetune_values",
    "nearest_name",
    "parse_reference",
    "plan_deliver",
    "plan_finetune",
    "plan_serve",
    "preview",
    "raise_if_not_succeeded",
    "runner_for",
    "target_of",
    "wait_until_ready",
]
