"""The models behind the routes: found by name, and generating answers token by token with transformers' `generate`.

Each model has its own thread and generates one answer after the other; models generate at the same time. An answer
whose client has disconnected is not finished. `answers.reader` reads the tokens; nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from tuneyard.serving.answers.parsing import Part
from tuneyard.serving.answers.reader import AnswerReader
from tuneyard.serving.connections import disconnected
from tuneyard.serving.errors import GenerationError, ModelNotFoundError
from tuneyard.serving.loading import LoadedModel
from tuneyard.serving.responses import Ending, ModelCard

logger = logging.getLogger(__name__)

_BROKEN = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, ImportError,
    OSError, MemoryError,
)  # fmt: skip
"""What a model's code raises. It must not end the model's thread: its clients would wait forever."""

Emit = Callable[[Part | Ending | GenerationError], None]


@dataclass(frozen=True, slots=True)
class GenerationTask:
    """One answer to generate.

    Attributes:
        inputs: Token ids and attention mask, each of shape (1, tokens).
        config: The generation config; `max_new_tokens` is set.
        seed: The seed of this answer's sampling; None for one that the server draws.
        reader: Reads the answer.
    """

    inputs: Any
    config: GenerationConfig
    seed: int | None
    reader: AnswerReader

    @property
    def tokens(self) -> int:
        """The number of tokens of the prompt."""
        return int(self.inputs["input_ids"].shape[-1])


class ModelManager:
    """All models of one server, by name.

    Args:
        loaded: The models, that of the values' `model` first.
        seed: Seeds the draw of seeds for requests without one; None for different seeds at each start.
    """

    def __init__(self, loaded: Sequence[LoadedModel], seed: int | None = None) -> None:
        self._created = int(time.time())
        self._loaded = {name: model for model in loaded for name in model.names}
        self._workers = {model.names: _Worker(model.names[0]) for model in loaded}
        self._seeds = random.Random(seed)  # noqa: S311  (samples text)
        self._closing = threading.Event()
        self._busy = 0
        self._changed = threading.Condition()

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that answers."""
        return tuple(self._loaded)

    def find(self, name: str) -> LoadedModel:
        """Return the model of a name.

        Raises:
            ModelNotFoundError: No model has that name.
        """
        if name not in self._loaded:
            raise ModelNotFoundError(name, self.names)
        return self._loaded[name]

    def card(self, name: str) -> ModelCard:
        """Describe a model.

        Raises:
            ModelNotFoundError: No model has that name.
        """
        model = self.find(name)
        return ModelCard(id=name, created=self._created, parent=model.parent or None, max_model_len=model.limit)

    async def answer(self, model: LoadedModel, task: GenerationTask) -> AsyncGenerator[Part | Ending]:
        """Generate an answer until it ends, its client disconnects, or the server closes.

        Args:
            model: The model.
            task: What to generate.

        Yields:
            The answer's parts, and then its end.

        Raises:
            GenerationError: It could not be generated to its end.
        """
        loop = asyncio.get_running_loop()
        parts: asyncio.Queue[Part | Ending | GenerationError] = asyncio.Queue()
        abandoned = threading.Event()
        stops = [event for event in (self._closing, abandoned, disconnected.get()) if event is not None]

        def emit(item: Part | Ending | GenerationError) -> None:
            with suppress(RuntimeError):  # the loop has ended with the server
                loop.call_soon_threadsafe(parts.put_nowait, item)

        self._workers[model.names].submit(lambda: self._generate(model, task, stops, emit))
        try:
            while True:
                item = await parts.get()
                if isinstance(item, GenerationError):
                    raise item
                yield item
                if isinstance(item, Ending):
                    return
        finally:
            abandoned.set()

    def drain(self, seconds: float) -> bool:
        """End every running answer at its next token.

        Args:
            seconds: How long to wait for them.

        Returns:
            Whether all have ended.
        """
        self._closing.set()
        with self._changed:
            return self._changed.wait_for(lambda: self._busy == 0, seconds)

    def _generate(self, model: LoadedModel, task: GenerationTask, stops: Sequence[threading.Event], emit: Emit) -> None:
        reader = task.reader
        with self._changed:
            self._busy += 1
        try:
            if not any(event.is_set() for event in stops):
                model.model.generate(
                    **task.inputs,
                    generation_config=task.config,
                    stopping_criteria=StoppingCriteriaList([_Reading(reader, stops, emit)]),
                    custom_generate=_seeded_loop(self._seed(task), model.model.device),
                )
            if self._closing.is_set() and not reader.done:
                raise GenerationError("The server is stopping, and this answer was not complete.", status=503)
            for part in reader.finish():
                emit(part)
            emit(Ending(reader.finish_reason, task.tokens, reader.tokens))
        except GenerationError as error:
            emit(error)
        except _BROKEN as error:
            logger.exception("An answer could not be generated.")
            emit(GenerationError(f"The answer could not be generated: {error}"))
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _seed(self, task: GenerationTask) -> int:
        return self._seeds.getrandbits(63) if task.seed is None else task.seed


class _Worker:
    """A thread that generates one model's answers, one after the other.

    A daemon: a forward pass that hangs must not keep the process from ending.
    """

    def __init__(self, name: str) -> None:
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        threading.Thread(target=self._run, name=f"answers-{name}", daemon=True).start()

    def submit(self, task: Callable[[], None]) -> None:
        """Add a task to the thread's queue."""
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            self._tasks.get()()


class _Reading(StoppingCriteria):
    """Reads each new token, and ends the answer when it is complete or no longer wanted.

    Not a streamer: a streamer gets a token only after it was decided whether another one follows.
    """

    def __init__(self, reader: AnswerReader, stops: Sequence[threading.Event], emit: Emit) -> None:
        self._reader, self._stops, self._emit = reader, stops, emit

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """Read one step's token; return for each sequence (there is one) whether it ends here."""
        del scores, kwargs
        for part in self._reader.feed(int(input_ids[0, -1])):
            self._emit(part)
        stop = self._reader.done or any(event.is_set() for event in self._stops)
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)


def _seeded_loop(seed: int, device: torch.device) -> Callable[..., Any]:
    """Make the decoding loop of one answer, for `generate(custom_generate=…)`.

    transformers samples with torch's global generator, which all threads share: the answer to a seed would depend on
    every other request. This adds a last step to its pipeline of logits processors that draws one token with the
    answer's own generator and rules out all others. The distribution is transformers' own, and the draws of a seed are
    those of plain transformers after `torch.manual_seed`.

    The loop itself, `GenerationMixin._sample`, is private: transformers is pinned to one minor version.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def decode(
        model: Any,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        generation_config: GenerationConfig,
        **more: Any,
    ) -> Any:
        if generation_config.do_sample:
            logits_processor.append(_Draw(generator))
        return model._sample(input_ids, logits_processor=logits_processor, generation_config=generation_config, **more)

    return decode


class _Draw(LogitsProcessor):
    """Draws one token of each distribution and leaves it as the only one to sample."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take logits of shape (sequences, tokens); return logits of the same shape that allow one token each."""
        del input_ids
        drawn = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)
