"""The models behind the routes: which name is which, and that an answer nobody waits for any more is not finished.

`Models` stands where transformers' serving parts expect their `ModelManager`: they ask it for a model by name and get
one of ours. It never loads, unloads or downloads anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch
from fastapi import HTTPException
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cli.serving.utils import Modality

from tuneyard.serve.loading import Loaded

logger = logging.getLogger("tuneyard.serve")

gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)
"""Set for each request by `clients.WatchClient`: becomes true when its client has gone."""


class Models:
    """All models of one server, by name.

    Args:
        loaded: The models, the one asked for first.
    """

    force_model = None  # read by transformers' handlers: no name stands for all

    def __init__(self, loaded: Sequence[Loaded]) -> None:
        self._created = int(time.time())
        self._loaded = {name: one for one in loaded for name in one.names}
        self._closing = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that answers."""
        return tuple(self._loaded)

    def find(self, name: str) -> Loaded:
        """Give the model of a name.

        Raises:
            HTTPException: 404 with the names there are.
        """
        if name not in self._loaded:
            message = f"There is no model {name!r} here; there is {', '.join(self.names)}."
            raise HTTPException(404, {"message": message, "param": "model", "code": "model_not_found"})
        return self._loaded[name]

    def answer(self, one: Loaded, arguments: dict[str, Any], stopped: threading.Event | None) -> Any:
        """Generate, until done, the client has gone or the server closes."""
        events = [event for event in (self._closing, stopped) if event is not None]
        criteria = StoppingCriteriaList([_StopAt(events)])
        with self._changed:
            self._busy += 1
        try:
            return one.model.generate(**arguments, stopping_criteria=criteria)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            logger.exception("a question could not be answered")
            # The handlers put the words into JSON as they are.
            raise RuntimeError(str(error).replace("\\", "/").replace('"', "'").replace("\n", " ")) from error
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def drain(self, seconds: float) -> bool:
        """End every answer under way at its next token.

        Args:
            seconds: How long to wait for them.

        Returns:
            Whether none is left.
        """
        self._closing.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._busy == 0, seconds)

    # What follows is what transformers' serving parts ask of a model manager, under the names they use.

    def process_model_name(self, model_id: str) -> str:
        """Leave a name as it is; a Hub's revision has no meaning here."""
        return model_id

    def load_model_and_processor(self, model_id: str, gguf_file: str | None = None) -> tuple[Answering, Any]:
        """Give the model of a name, and its tokenizer."""
        one = self.find(model_id if gguf_file is None else f"{model_id}:{gguf_file}")
        return Answering(self, one, gone.get()), one.tokenizer

    def get_model_modality(self, model: Any, processor: Any = None) -> Modality:
        """Say that every model is one of text."""
        del model, processor
        return Modality.LLM

    def get_gen_models(self) -> list[dict[str, Any]]:
        """List the models in OpenAI's form; an adapter names its base as vLLM does."""
        return [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "tuneyard",
                "parent": one.parent or None,
                "max_model_len": one.limit,
            }
            for name, one in self._loaded.items()
        ]

    def shutdown(self) -> None:
        """End every answer; called when the app has shut down."""
        self._closing.set()


class Answering:
    """A model for one request: what transformers' handlers touch of one, and no more.

    Args:
        models: The server's models.
        one: Which of them.
        stopped: Becomes true when nobody waits for the answer any more.
    """

    def __init__(self, models: Models, one: Loaded, stopped: threading.Event | None) -> None:
        self._models, self._one, self._stopped = models, one, stopped
        self.device = one.model.device
        self.config = one.model.config
        self.generation_config = one.generation
        self.limit = one.limit

    def generate(self, **arguments: Any) -> Any:
        """Generate as transformers does."""
        return self._models.answer(self._one, arguments, self._stopped)


class _StopAt(StoppingCriteria):
    """Ends an answer at the next token after one of some events."""

    def __init__(self, events: Sequence[threading.Event]) -> None:
        self._events = events

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Tell for each sequence whether it ends here."""
        del scores, kwargs
        stop = any(event.is_set() for event in self._events)
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)
