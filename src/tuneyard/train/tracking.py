"""Experiment trackers during training: one that fails is dropped, and training continues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tuneyard.models import reason_of
from tuneyard.progress import Notify

_EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]


def guard_trackers(trainer: Trainer, log: Notify) -> None:
    """Keep trackers from ending a trainer's training.

    Args:
        trainer: Before it trains; each of its trackers' callbacks is replaced by one that passes events on to it.
        log: Called with one line when a tracker fails.
    """
    handler = trainer.callback_handler
    names = {kind: name for name, kind in INTEGRATION_TO_CALLBACK.items()}
    handler.callbacks = [
        _Guarded(each, names[type(each)], log) if type(each) in names else each for each in handler.callbacks
    ]


class _Guarded(TrainerCallback):
    """Passes a trainer's events on to a tracker until one fails.

    Args:
        tracker: The callback of a tracker.
        name: transformers' name of it.
        log: Called with one line when it fails.
    """

    def __init__(self, tracker: TrainerCallback, name: str, log: Notify) -> None:
        self._tracker: TrainerCallback | None = tracker
        self._name = name
        self._log = log

    def pass_on(self, event: str, *args: Any, **kwargs: Any) -> None:
        """Pass an event on.

        Args:
            event: The name of a callback's method.
            args: Its arguments.
            kwargs: The same.
        """
        if self._tracker is None:
            return
        try:
            getattr(self._tracker, event)(*args, **kwargs)
        except Exception as error:  # a tracker's package may raise anything, and none of it may end the training
            self._tracker = None
            self._log(f"{self._name} failed; nothing more of this run is reported to it: {reason_of(error)}")


def _passing_on(event: str) -> Callable[..., None]:
    def method(self: _Guarded, *args: Any, **kwargs: Any) -> None:
        self.pass_on(event, *args, **kwargs)

    return method


for _event in _EVENTS:
    setattr(_Guarded, _event, _passing_on(_event))
