"""Tuneyard: finetune a language model on your own machine or your own Kubernetes.

The verbs are those of the command line: deliver, plan, finetune, serve, chat, and the ones that look after runs.
Everything is loaded on first use, so importing this costs next to nothing.

A verb is a function and a room is a noun (`deliver` and `tuneyard.delivery`), so that neither hides the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneyard.client import Run, chat, delete, deliver, find, finetune, logs, plan, runs, serve, stop, watch
    from tuneyard.errors import TuneyardError
    from tuneyard.runners import RunInfo
    from tuneyard.runners.forecast import Forecast
    from tuneyard.runners.targets import Kubernetes

    __version__: str

__all__ = [
    "Forecast",
    "Kubernetes",
    "Run",
    "RunInfo",
    "TuneyardError",
    "__version__",
    "chat",
    "delete",
    "deliver",
    "find",
    "finetune",
    "logs",
    "plan",
    "runs",
    "serve",
    "stop",
    "watch",
]

_MODULES = {
    "Forecast": "tuneyard.runners.forecast",
    "Kubernetes": "tuneyard.runners.targets",
    "RunInfo": "tuneyard.runners",
    "TuneyardError": "tuneyard.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tuneyard")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "tuneyard.client")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
