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
