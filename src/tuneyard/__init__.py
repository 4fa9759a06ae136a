"""Tuneyard: finetune a language model on your own machine or your own Kubernetes.

The verbs are those of the command line: deliver, plan, finetune, serve, chat, and the ones that look after runs.
Everything is loaded on first use, so importing this costs next to nothing.

Four verbs share their name with the room that does their work. `tuneyard.deliver` is always the verb; the room is
imported from (`from tuneyard.deliver import …`) or run (`python -m tuneyard.deliver`).
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneyard.client import Run, chat, delete, deliver, find, finetune, logs, plan, runs, serve, stop, watch
    from tuneyard.errors import TuneyardError
    from tuneyard.runs import RunInfo
    from tuneyard.runs.forecast import Forecast
    from tuneyard.runs.targets import Kubernetes

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
    "Forecast": "tuneyard.runs.forecast",
    "Kubernetes": "tuneyard.runs.targets",
    "RunInfo": "tuneyard.runs",
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


class _Face(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # The import system sets each imported room on its package, which would hide the verb of the same name.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
