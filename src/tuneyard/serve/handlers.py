"""transformers' handlers of chats and completions, with what they leave open closed.

They generate, stream and count; here requests are checked first, sampling follows the request, an answer fits into the
model's context and ends before its stop words. Their methods are overridden by name: transformers is pinned to one
minor version for that.
"""

from __future__ import annotations

import json
from typing import Any

import jinja2
from fastapi import HTTPException
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import GenerationConfig
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.utils import GenerationState, Modality

from tuneyard.data import template_messages
from tuneyard.serve.answering import Models
from tuneyard.serve.loading import Loaded
from tuneyard.serve.requests import AskedChat, AskedText, read_request
from tuneyard.serve.streams import cut_answer, finished_stream

Answer = StreamingResponse | JSONResponse

_GREEDY_BELOW = 1e-5  # vLLM's bound: divided by less, logits overflow


class _OurModels:
    """What is the same for chats and completions, in front of transformers' handler.

    Args:
        models: The server's models.
        state: The threads that generate.
    """

    def __init__(self, models: Models, state: GenerationState) -> None:
        self._models = models
        self._theirs: Any = super()
        self._theirs.__init__(models, state)

    def _build_generation_config(
        self, body: dict[str, Any], model_generation_config: GenerationConfig, use_cb: bool = False
    ) -> GenerationConfig:
        return _sampling(self._theirs._build_generation_config(body, model_generation_config, use_cb), body)

    def _streaming(self, *given: Any, **named: Any) -> StreamingResponse:
        _fit(*given)
        return self._theirs._streaming(*given, **named)

    async def _non_streaming(self, *given: Any, **named: Any) -> JSONResponse:
        _fit(*given)
        return await self._theirs._non_streaming(*given, **named)


class ChatHandler(_OurModels, ChatCompletionHandler):
    """`POST /v1/chat/completions`; made as `_OurModels` says."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Answer:
        """Answer one request."""
        asked = read_request(AskedChat, body)
        one = self._models.find(asked.model)
        _refuse_vast(one, sum(message.characters for message in asked.messages))
        if not one.tokenizer.chat_template:
            message = f"The model {asked.model!r} has no chat template; ask it at /v1/completions."
            raise HTTPException(400, {"message": message, "param": "messages"})
        try:
            answer = await super().handle_request(asked.body(), request_id)
        except (jinja2.TemplateError, json.JSONDecodeError) as error:
            message = f"The model's chat template can't take these messages: {error}"
            raise HTTPException(400, {"message": message, "param": "messages"}) from error
        return _whole(answer, asked.stops)

    @staticmethod
    def get_processor_inputs_from_messages(messages: list[dict[str, Any]], modality: Modality) -> list[dict[str, Any]]:
        """Hand messages to the template as training does: transformers leaves out reasoning, and words beside calls."""
        del modality  # text only
        return template_messages({**one, "content": _text(one.get("content"))} for one in messages)


class TextHandler(_OurModels, CompletionHandler):
    """`POST /v1/completions`; made as `_OurModels` says."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Answer:
        """Answer one request."""
        asked = read_request(AskedText, body)
        _refuse_vast(self._models.find(asked.model), len(asked.prompt))
        return _whole(await super().handle_request(asked.body(), request_id), asked.stops)


def _text(content: str | list[dict[str, Any]] | None) -> str:
    return " ".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def _sampling(config: GenerationConfig, body: dict[str, Any]) -> GenerationConfig:
    """Let the request decide whether to sample; transformers would keep a greedy model greedy at any temperature."""
    temperature = body.get("temperature")
    if temperature is not None and temperature < _GREEDY_BELOW:
        config.do_sample = False
    elif temperature is not None or body.get("top_p") is not None:
        config.do_sample = True
    if not config.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(config, name, None)
    return config


def _refuse_vast(one: Loaded, characters: int) -> None:
    """Refuse what can't fit before it is tokenized, which holds up every other request for as long as it takes."""
    if characters > one.limit * one.longest_token:
        message = f"The question has {characters} characters, far more than {one.limit} tokens can be."
        raise HTTPException(400, {"message": message, "param": "messages", "code": "context_length_exceeded"})


def _fit(request_id: Any, model: Any, processor: Any, model_id: str, inputs: Any, config: Any, *rest: Any) -> None:
    """Shorten the longest answer to the room that the question leaves, as transformers' `_streaming` is called."""
    del request_id, processor, rest
    asked = int(inputs["input_ids"].shape[-1])
    room = model.limit - asked
    if room < 1:
        message = f"The question has {asked} tokens, and {model_id} takes at most {model.limit} with the answer."
        raise HTTPException(400, {"message": message, "param": "messages", "code": "context_length_exceeded"})
    if asked == 0:
        raise HTTPException(400, {"message": "The question has no tokens.", "param": "messages"})
    config.max_new_tokens = min(config.max_new_tokens, room)


def _whole(answer: Answer, stops: tuple[str, ...]) -> Answer:
    if isinstance(answer, StreamingResponse):
        answer.body_iterator = finished_stream(answer.body_iterator, stops)
        return answer
    return JSONResponse(cut_answer(json.loads(bytes(answer.body)), stops)) if stops else answer
