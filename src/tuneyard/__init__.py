"""Tuneyard: finetune a language model on your own machine or your own Kubernetes cluster.

    run = tuneyard.finetune("values.yaml", name="lora-16")
    server = tuneyard.serve("lora-16")
    print(tuneyard.chat("What is a manifest?"))

Each verb is a method of `Client`, which holds a target and a store. The verbs of this module use a client with the
defaults; each also takes `on=` and `store=` as `Client` does. Everything is loaded on first use, so that importing this
costs next to nothing. Functions are verbs and packages are nouns (`deliver` and `tuneyard.delivery`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuneyard.client import Client
    from tuneyard.errors import (
        AcceleratorMissingError,
        AlreadyExistsError,
        ChangedError,
        ConflictError,
        DeniedError,
        DivergedError,
        FullError,
        IncompleteModelError,
        IntegrityError,
        InvalidDataError,
        InvalidValuesError,
        LostOwnershipError,
        NotFoundError,
        Problem,
        TuneyardError,
        UnavailableError,
        UsageError,
    )
    from tuneyard.runners import Forecast, Kubernetes, Run, RunEndedError, RunInfo
    from tuneyard.verbs import (
        chat,
        check_data,
        check_store,
        delete,
        deliver,
        doctor,
        find,
        finetune,
        gc,
        logs,
        plan,
        preview,
        resolve_values,
        runs,
        schema,
        serve,
        show_data,
        stop,
        verify,
        watch,
    )

    __version__: str

__all__ = [
    "AcceleratorMissingError",
    "AlreadyExistsError",
    "ChangedError",
    "Client",
    "ConflictError",
    "DeniedError",
    "DivergedError",
    "Forecast",
    "FullError",
    "IncompleteModelError",
    "IntegrityError",
    "InvalidDataError",
    "InvalidValuesError",
    "Kubernetes",
    "LostOwnershipError",
    "NotFoundError",
    "Problem",
    "Run",
    "RunEndedError",
    "RunInfo",
    "TuneyardError",
    "UnavailableError",
    "UsageError",
    "__version__",
    "chat",
    "check_data",
    "check_store",
    "delete",
    "deliver",
    "doctor",
    "find",
    "finetune",
    "gc",
    "logs",
    "plan",
    "preview",
    "resolve_values",
    "runs",
    "schema",
    "serve",
    "show_data",
    "stop",
    "verify",
    "watch",
]

_MODULES = {
    "Client": "tuneyard.client",
    "Forecast": "tuneyard.runners.forecast",
    "Kubernetes": "tuneyard.runners.targets",
    "Problem": "tuneyard.errors",
    "Run": "tuneyard.runners",
    "RunEndedError": "tuneyard.runners.waiting",
    "RunInfo": "tuneyard.runners",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tuneyard")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "tuneyard.errors" if name.endswith("Error") else "tuneyard.verbs"
    return getattr(import_module(_MODULES.get(name, module)), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
