"""Runs: work that outlives its terminal; launched, listed, followed, stopped and deleted.

    info        the state of a run, one status vocabulary
    names       which names are allowed, and which run a name refers to
    plans       from values to a launch
    forecast    from values to an estimate and a verdict
    waiting     waiting for runs to change, end or answer
    published   what a run reads and publishes in the store
    base        the `Runner` protocol that every target implements
    local       the runner of this machine
    kubernetes  the runner of a cluster's namespace
    targets     from a target to its runner

Sits above the packages that do the work (it starts them as processes) and below the verbs (`tuneyard.client`).
"""

from tuneyard.runners.base import STOP_SECONDS, Launch, Runner
from tuneyard.runners.info import ENDED, VERBS, RunInfo, RunKey, RunProgress, Status, Verb
from tuneyard.runners.local import LocalRunner
from tuneyard.runners.names import check_name, find_run, nearest_name, parse_reference

__all__ = [
    "ENDED",
    "STOP_SECONDS",
    "VERBS",
    "Launch",
    "LocalRunner",
    "RunInfo",
    "RunKey",
    "RunProgress",
    "Runner",
    "Status",
    "Verb",
    "check_name",
    "find_run",
    "nearest_name",
    "parse_reference",
]
