"""Runs: work that lives on without its terminal, launched, listed, followed, stopped and deleted.

    info        what is known of a run, one status vocabulary
    names       which names are allowed, and which run is meant
    base        the `Runner` protocol that every target implements
    local       the runner of this machine
    process     the supervisor that stays with one run

Sits above the rooms that do the work (it starts them as processes and imports none of them) and below the verbs
(`tuneyard.client`).
"""

from tuneyard.runners.base import STOP_SECONDS, Launch, Runner
from tuneyard.runners.forecast import Forecast, forecast
from tuneyard.runners.info import ENDED, VERBS, RunInfo, RunKey, RunProgress, Status, Verb
from tuneyard.runners.local import LocalRunner
from tuneyard.runners.names import check_name, find_run, nearest_name, parse_reference
from tuneyard.runners.plans import Plan, Sources, load_finetune_values, plan_deliver, plan_finetune, plan_serve
from tuneyard.runners.targets import Kubernetes, Target, runner_for, target_of
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
    "raise_if_not_succeeded",
    "runner_for",
    "target_of",
    "wait_until_ready",
]
