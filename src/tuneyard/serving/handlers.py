"""Requests checked, rendered and turned into tasks for a model, and the answers sent back.

Requests that can't be honoured are refused before anything is generated.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import BatchEncoding, GenerationConfig

from tuneyard.serving.answering import GenerationTask, Models, UnknownModelError
from tuneyard.serving.decoding import TokenDecoder
from tuneyard.serving.forms import AnswerForm
from tuneyard.serving.loading import Loaded
from tuneyard.serving.parsing import AnswerParser, Part
from tuneyard.serving.replies import ChatReply, Ending, GenerationFailed, TextReply, events
from tuneyard.serving.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest, read_request
from tuneyard.serving.streams import AnswerReader
from tuneyard.serving.template import Unrenderable

Answer = StreamingResponse | JSONResponse
_Request = TypeVar("_Request", bound=GenerationRequest)

_GREEDY_BELOW = 1e-5  # vLLM's bound: divided by less, logits overflow
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")


class RequestHandler(Generic[_Request]):
    """A route that generates.

    Args:
        models: The server's models.
        kind: What it takes.
        make_task: Makes a task of a request for a model.
        reply: Writes the answers.
        prefix: What the ids of its answers begin with.
    """

    def __init__(
        self,
        models: Models,
        kind: type[_Request],
        make_task: Callable[[_Request, Loaded], GenerationTask],
        reply: type[ChatReply],
        prefix: str,
    ) -> None:
        self._models, self._kind, self._make_task = models, kind, make_task
        self._reply, self._prefix = reply, prefix

    async def handle(self, body: dict[str, Any]) -> Answer:
        """Answer one request.

        Args:
            body: Its JSON.

        Raises:
            HTTPException: It can't be honoured.
        """
        request = read_request(self._kind, body)
        one = find_model(self._models, request.model)
        _refuse_vast(one, request)
        task = await asyncio.to_thread(self._make_task, request, one)
        reply = self._reply(f"{self._prefix}-{uuid.uuid4().hex}", request.model, request.wants_usage)
        return await _answer(self._models, one, task, reply, stream=request.stream)


def chat_handler(models: Models) -> RequestHandler[ChatCompletionRequest]:
    """Make the handler of `POST /v1/chat/completions`."""
    return RequestHandler(models, ChatCompletionRequest, chat_task, ChatReply, "chatcmpl")


def text_handler(models: Models) -> RequestHandler[CompletionRequest]:
    """Make the handler of `POST /v1/completions`."""
    return RequestHandler(models, CompletionRequest, text_task, TextReply, "cmpl")


def find_model(models: Models, name: str) -> Loaded:
    """Return the model of a name.

    Raises:
        HTTPException: 404 with the names there are.
    """
    try:
        return models.find(name)
    except UnknownModelError as error:
        raise HTTPException(404, {"message": str(error), "param": "model", "code": "model_not_found"}) from error


def chat_task(request: ChatCompletionRequest, one: Loaded) -> GenerationTask:
    """Make a task of a chat request.

    Args:
        request: The request.
        one: The model.

    Raises:
        HTTPException: 400 where the chat template can't take it, or it leaves no room for an answer.
    """
    if one.template is None:
        message = f"The model {request.model!r} has no chat template: use /v1/completions."
        raise HTTPException(400, {"message": message, "param": "messages"})
    tools = request.offered_tools
    try:
        prompt = one.template.prompt(request.given_messages, tools, request.chat_template_kwargs or {})
    except Unrenderable as error:
        raise HTTPException(400, {"message": error.message, "param": error.field}) from error
    parser = AnswerParser(
        prompt.form,
        one.special,
        within_reasoning=prompt.within_reasoning,
        tools=tools,
        parallel=request.parallel_tool_calls is not False,
    )
    return _task(request, one, prompt.inputs, parser)


def text_task(request: CompletionRequest, one: Loaded) -> GenerationTask:
    """Make a task of a completion request.

    Args:
        request: The request.
        one: The model.

    Raises:
        HTTPException: 400 where it leaves no room for an answer.
    """
    inputs = one.tokenizer(request.prompt, return_tensors="pt")
    return _task(request, one, inputs, AnswerParser(AnswerForm(), one.special))


def _task(request: GenerationRequest, one: Loaded, inputs: BatchEncoding, parser: AnswerParser) -> GenerationTask:
    config = _sampling(copy.deepcopy(one.generation), request)
    room = _room(one, request, int(inputs["input_ids"].shape[-1]))
    limit = request.limit
    config.max_new_tokens = room if limit is None else min(limit, room)
    reader = AnswerReader(
        TokenDecoder(one.tokenizer, one.special),
        parser,
        stop_tokens=frozenset(config.eos_token_id or ()),
        stop_words=[one.special.mark(word) for word in (*request.stops, *one.stop_words)],
    )
    return GenerationTask(inputs.to(one.model.device), config, request.seed, reader)


def _sampling(config: GenerationConfig, request: GenerationRequest) -> GenerationConfig:
    """Let the request decide whether to sample; transformers would keep a greedy model greedy at any temperature."""
    if request.temperature is not None and request.temperature < _GREEDY_BELOW:
        config.do_sample = False
    elif request.temperature is not None or request.top_p is not None:
        config.do_sample = True
    config.temperature = config.temperature if request.temperature is None else request.temperature
    config.top_p = config.top_p if request.top_p is None else request.top_p
    if not config.do_sample:
        for name in _SAMPLING:
            setattr(config, name, None)
    return config


def _refuse_vast(one: Loaded, request: GenerationRequest) -> None:
    """Refuse what can't fit before it is tokenized, which holds up every other request for as long as it takes."""
    if request.characters > one.limit * one.longest_token:
        message = f"The prompt has {request.characters} characters, far more than {one.limit} tokens can be."
        raise _too_long(request, message)


def _room(one: Loaded, request: GenerationRequest, tokens: int) -> int:
    """Return how many tokens an answer may have: what the prompt leaves of the context."""
    if tokens == 0:
        raise HTTPException(400, {"message": "The prompt has no tokens.", "param": request.prompt_field})
    if tokens >= one.limit:
        message = f"The prompt has {tokens} tokens, and {request.model} takes at most {one.limit} with the answer."
        raise _too_long(request, message)
    return one.limit - tokens


def _too_long(request: GenerationRequest, message: str) -> HTTPException:
    return HTTPException(400, {"message": message, "param": request.prompt_field, "code": "context_length_exceeded"})


async def _answer(
    models: Models, one: Loaded, task: GenerationTask, reply: ChatReply, *, stream: bool | None
) -> Answer:
    generated = models.answer(one, task)
    if stream:
        return StreamingResponse(events(reply, generated), media_type="text/event-stream")
    parts: list[Part] = []
    try:
        async for part in generated:
            if isinstance(part, Ending):
                return JSONResponse(reply.whole(parts, part))
            parts.append(part)
    except GenerationFailed as error:
        raise HTTPException(error.status, error.as_dict()) from error
    finally:
        await generated.aclose()
    raise AssertionError("an answer ends with its ending")
