"""The verbs as functions: each is a method of a `Client` with the defaults, or with the given `on` and `store`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from tuneyard.client import Client, File
from tuneyard.runners import Target

P = ParamSpec("P")
R = TypeVar("R")

_DOC = """

Also takes `on` and `store`, as `Client` does.
"""


def _verb(method: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    @wraps(method)
    def call(*args: Any, on: Target | None = None, store: File | None = None, **kwargs: Any) -> R:
        return method(Client(on, store=store), *args, **kwargs)

    own = inspect.signature(method)
    added = [
        inspect.Parameter("on", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Target | None"),
        inspect.Parameter("store", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="File | None"),
    ]
    _self, *parameters = own.parameters.values()
    call.__signature__ = own.replace(parameters=[*parameters, *added])  # type: ignore[attr-defined]
    call.__doc__ = (inspect.getdoc(method) or "") + _DOC
    return call


deliver = _verb(Client.deliver)
plan = _verb(Client.plan)
finetune = _verb(Client.finetune)
serve = _verb(Client.serve)
chat = _verb(Client.chat)
runs = _verb(Client.runs)
find = _verb(Client.find)
logs = _verb(Client.logs)
watch = _verb(Client.watch)
stop = _verb(Client.stop)
delete = _verb(Client.delete)
check_data = _verb(Client.check_data)
show_data = _verb(Client.show_data)
resolve_values = _verb(Client.resolve_values)
verify = _verb(Client.verify)
gc = _verb(Client.gc)
doctor = _verb(Client.doctor)
check_store = _verb(Client.check_store)
