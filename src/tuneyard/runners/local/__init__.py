"""The runner of this machine: a detached supervisor for each run, all state in folders of `TUNEYARD_HOME`."""

from tuneyard.runners.local.runner import LocalRunner

__all__ = ["LocalRunner"]
