"""What a request asks of a model: checked, rendered and turned into a question, and its answer sent back.

Requests that can't be honoured are refused before anything is generated.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import BatchEncoding, GenerationConfig

from tuneyard.serve.answering import Models, Question, UnknownModelError
from tuneyard.serve.decoding import TokenDecoder
from tuneyard.serve.forms import AnswerForm
from tuneyard.serve.loading import Loaded
from tuneyard.serve.parsing import AnswerParser, Part
from tuneyard.serve.replies import ChatReply, Ending, GenerationFailed, TextReply, events
from tuneyard.serve.requests import Asked, AskedChat, AskedText, read_request
from tuneyard.serve.streams import AnswerReader
from tuneyard.serve.template import Unrenderable

Answer = StreamingResponse | JSONResponse

_GREEDY_BELOW = 1e-5  # vLLM's bound: divided by less, logits overflow
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")


class ChatHandler:
    """`POST /v1/chat/completions`.

    Args:
        models: The server's models.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    async def handle(self, body: dict[str, Any]) -> Answer:
        """Answer one request.

        Args:
            body: Its JSON.

        Raises:
            HTTPException: It can't be honoured.
        """
        asked = read_request(AskedChat, body)
        one = find_model(self._models, asked.model)
        _refuse_vast(one, sum(message.characters for message in asked.messages))
        question = await asyncio.to_thread(chat_question, asked, one)
        reply = ChatReply(f"chatcmpl-{uuid.uuid4().hex}", asked.model, asked.wants_usage)
        return await _answer(self._models, one, question, reply, stream=asked.stream)


class TextHandler:
    """`POST /v1/completions`.

    Args:
        models: The server's models.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    async def handle(self, body: dict[str, Any]) -> Answer:
        """Answer one request.

        Args:
            body: Its JSON.

        Raises:
            HTTPException: It can't be honoured.
        """
        asked = read_request(AskedText, body)
        one = find_model(self._models, asked.model)
        _refuse_vast(one, len(asked.prompt))
        question = await asyncio.to_thread(text_question, asked, one)
        reply = TextReply(f"cmpl-{uuid.uuid4().hex}", asked.model, asked.wants_usage)
        return await _answer(self._models, one, question, reply, stream=asked.stream)


def find_model(models: Models, name: str) -> Loaded:
    """Return the model of a name.

    Raises:
        HTTPException: 404 with the names there are.
    """
    try:
        return models.find(name)
    except UnknownModelError as error:
        raise HTTPException(404, {"message": str(error), "param": "model", "code": "model_not_found"}) from error


def chat_question(asked: AskedChat, one: Loaded) -> Question:
    """Turn a chat request into what its model is asked.

    Args:
        asked: The request.
        one: The model.

    Raises:
        HTTPException: 400 where the chat template can't take it, or it leaves no room for an answer.
    """
    if one.template is None:
        message = f"The model {asked.model!r} has no chat template; ask it at /v1/completions."
        raise HTTPException(400, {"message": message, "param": "messages"})
    tools = asked.offered_tools
    try:
        prompt = one.template.prompt(asked.given_messages, tools, asked.chat_template_kwargs or {})
    except Unrenderable as error:
        raise HTTPException(400, {"message": error.message, "param": error.field}) from error
    parser = AnswerParser(
        prompt.form,
        one.special,
        within_reasoning=prompt.within_reasoning,
        tools=tools,
        parallel=asked.parallel_tool_calls is not False,
    )
    return _question(asked, one, prompt.inputs, parser)


def text_question(asked: AskedText, one: Loaded) -> Question:
    """Turn a completion request into what its model is asked.

    Args:
        asked: The request.
        one: The model.

    Raises:
        HTTPException: 400 where it leaves no room for an answer.
    """
    inputs = one.tokenizer(asked.prompt, return_tensors="pt")
    return _question(asked, one, inputs, AnswerParser(AnswerForm(), one.special))


def _question(asked: Asked, one: Loaded, inputs: BatchEncoding, parser: AnswerParser) -> Question:
    config = _sampling(copy.deepcopy(one.generation), asked)
    room = _room(one, asked.model, int(inputs["input_ids"].shape[-1]))
    limit = asked.limit
    config.max_new_tokens = room if limit is None else min(limit, room)
    reader = AnswerReader(
        TokenDecoder(one.tokenizer, one.special),
        parser,
        stop_tokens=frozenset(config.eos_token_id or ()),
        stop_words=[one.special.mark(word) for word in (*asked.stops, *one.stop_words)],
    )
    return Question(inputs.to(one.model.device), config, asked.seed, reader)


def _sampling(config: GenerationConfig, asked: Asked) -> GenerationConfig:
    """Let the request decide whether to sample; transformers would keep a greedy model greedy at any temperature."""
    if asked.temperature is not None and asked.temperature < _GREEDY_BELOW:
        config.do_sample = False
    elif asked.temperature is not None or asked.top_p is not None:
        config.do_sample = True
    config.temperature = config.temperature if asked.temperature is None else asked.temperature
    config.top_p = config.top_p if asked.top_p is None else asked.top_p
    if not config.do_sample:
        for name in _SAMPLING:
            setattr(config, name, None)
    return config


def _refuse_vast(one: Loaded, characters: int) -> None:
    """Refuse what can't fit before it is tokenized, which holds up every other request for as long as it takes."""
    if characters > one.limit * one.longest_token:
        message = f"The question has {characters} characters, far more than {one.limit} tokens can be."
        raise HTTPException(400, {"message": message, "param": "messages", "code": "context_length_exceeded"})


def _room(one: Loaded, name: str, tokens: int) -> int:
    """Return how many tokens an answer may have: what a question leaves of the context."""
    if tokens == 0:
        raise HTTPException(400, {"message": "The question has no tokens.", "param": "messages"})
    if tokens >= one.limit:
        message = f"The question has {tokens} tokens, and {name} takes at most {one.limit} with the answer."
        raise HTTPException(400, {"message": message, "param": "messages", "code": "context_length_exceeded"})
    return one.limit - tokens


async def _answer(models: Models, one: Loaded, question: Question, reply: ChatReply, *, stream: bool | None) -> Answer:
    generated = models.answer(one, question)
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
