"""The models behind the routes: which name is which, and an answer generated token by token.

Each model has a thread of its own and generates one answer after the other; models generate at the same time. An answer
that nobody waits for any more is not finished. What an answer's tokens mean is read by `streams`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from tuneyard.serving.loading import Loaded
from tuneyard.serving.parsing import Part
from tuneyard.serving.replies import Ending, GenerationFailed
from tuneyard.serving.sampling import seeded_decoding
from tuneyard.serving.streams import AnswerReader

logger = logging.getLogger("tuneyard.serving")

gone: ContextVar[threading.Event | None] = ContextVar("gone", default=None)
"""Set for each request by `clients.WatchClient`: becomes true when its client has gone."""

_BROKEN = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError,
    OSError, MemoryError,
)  # fmt: skip
"""What a model's own code raises; a thread that ended with one would leave its clients waiting."""

Emit = Callable[[Part | Ending | GenerationFailed], None]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """One answer to generate.

    Attributes:
        inputs: Token ids and attention mask, each of shape (1, tokens).
        config: How to generate; `max_new_tokens` is set.
        seed: Of this answer's sampling; None for one that the server draws.
        reader: Reads the answer.
    """

    inputs: Any
    config: GenerationConfig
    seed: int | None
    reader: AnswerReader

    @property
    def tokens(self) -> int:
        """How many tokens the prompt has."""
        return int(self.inputs["input_ids"].shape[-1])


class UnknownModelError(LookupError):
    """Raised where no model has a name.

    Args:
        name: The name.
        names: Those there are.
    """

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(f"There is no model {name!r} here; there is {', '.join(names)}.")


class Models:
    """All models of one server, by name.

    Args:
        loaded: The models, that of the values' `model` first.
        seed: Draws the seeds of requests that have none; None for other ones each time the server starts.
    """

    def __init__(self, loaded: Sequence[Loaded], seed: int | None = None) -> None:
        self._created = int(time.time())
        self._loaded = {name: one for one in loaded for name in one.names}
        self._workers = {one.names: _Worker(one.names[0]) for one in loaded}
        self._seeds = random.Random(seed)  # noqa: S311  (samples text)
        self._closing = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that answers."""
        return tuple(self._loaded)

    def find(self, name: str) -> Loaded:
        """Return the model of a name.

        Raises:
            UnknownModelError: There is none.
        """
        if name not in self._loaded:
            raise UnknownModelError(name, self.names)
        return self._loaded[name]

    def card(self, name: str) -> dict[str, Any]:
        """Describe a model in OpenAI's form; an adapter names its base as vLLM does.

        Raises:
            UnknownModelError: There is none.
        """
        one = self.find(name)
        about = {"id": name, "object": "model", "created": self._created, "owned_by": "tuneyard"}
        return {**about, "parent": one.parent or None, "max_model_len": one.limit}

    async def answer(self, one: Loaded, task: GenerationTask) -> AsyncGenerator[Part | Ending]:
        """Generate an answer, until it ends, its client has gone or the server closes.

        Args:
            one: The model.
            task: What to generate.

        Yields:
            The answer's parts, and then how it has ended.

        Raises:
            GenerationFailed: It could not be generated to its end.
        """
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[Part | Ending | GenerationFailed] = asyncio.Queue()
        abandoned = threading.Event()
        stops = [event for event in (self._closing, abandoned, gone.get()) if event is not None]

        def emit(item: Part | Ending | GenerationFailed) -> None:
            with suppress(RuntimeError):  # the loop has ended with the server
                loop.call_soon_threadsafe(parts.put_nowait, item)

        self._workers[one.names].submit(lambda: self._generate(one, task, stops, emit))
        try:
            while True:
                item = await parts.get()
                if isinstance(item, GenerationFailed):
                    raise item
                yield item
                if isinstance(item, Ending):
                    return
        finally:
            abandoned.set()

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

    def _generate(self, one: Loaded, task: GenerationTask, stops: Sequence[threading.Event], emit: Emit) -> None:
        reader = task.reader
        with self._changed:
            self._busy += 1
        try:
            if not any(event.is_set() for event in stops):
                one.model.generate(
                    **task.inputs,
                    generation_config=task.config,
                    stopping_criteria=StoppingCriteriaList([_Reading(reader, stops, emit)]),
                    custom_generate=seeded_decoding(self._seed(task), one.model.device),
                )
            if self._closing.is_set() and not reader.done:
                raise GenerationFailed("The server is stopping, and this answer was not complete.", status=503)
            for part in reader.finish():
                emit(part)
            emit(Ending(reader.finish_reason, task.tokens, reader.tokens))
        except GenerationFailed as error:
            emit(error)
        except _BROKEN as error:
            logger.exception("An answer could not be generated.")
            emit(GenerationFailed(f"The answer could not be generated: {error}"))
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _seed(self, task: GenerationTask) -> int:
        return self._seeds.getrandbits(63) if task.seed is None else task.seed


class _Worker:
    """A thread that generates one model's answers, one after the other.

    A daemon: a forward pass that does not end must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name=f"answers-{name}", daemon=True).start()

    def submit(self, task: Callable[[], None]) -> None:
        """Let the thread do something, after all that it was given before."""
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            self._tasks.get()()


class _Reading(StoppingCriteria):
    """Reads each new token, and ends the answer where it is complete or nobody waits for it.

    Not a streamer: a streamer gets a token only after it was decided whether another one follows.
    """

    def __init__(self, reader: AnswerReader, stops: Sequence[threading.Event], emit: Emit) -> None:
        self._reader, self._stops, self._emit = reader, stops, emit

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Take one step's token; return for each sequence (there is one) whether it ends here."""
        del scores, kwargs
        for part in self._reader.feed(int(input_ids[0, -1])):
            self._emit(part)
        stop = self._reader.done or any(event.is_set() for event in self._stops)
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)
