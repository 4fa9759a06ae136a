"""From a checked request to a generation task: the prompt rendered, the sampling set, the room for the answer counted.

What can't be honoured is refused here, before anything is generated. Knows nothing of HTTP.
"""

from __future__ import annotations

import copy

from transformers import BatchEncoding, GenerationConfig

from tuneyard.serving.answers.decoding import TokenDecoder
from tuneyard.serving.answers.forms import AnswerForm
from tuneyard.serving.answers.parsing import AnswerParser
from tuneyard.serving.answers.reader import AnswerReader
from tuneyard.serving.errors import RequestError
from tuneyard.serving.generation import GenerationTask
from tuneyard.serving.loading import LoadedModel
from tuneyard.serving.requests import ChatCompletionRequest, CompletionRequest, GenerationRequest

_GREEDY_BELOW = 1e-5  # vLLM's bound: divided by less, logits overflow
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff")


def refuse_oversized(request: GenerationRequest, model: LoadedModel) -> None:
    """Refuse a prompt that can't fit before it is tokenized, which holds up every other request while it lasts.

    Args:
        request: The request.
        model: The model.

    Raises:
        RequestError: The prompt has more characters than the context could hold.
    """
    if request.characters > model.limit * model.longest_token:
        message = f"The prompt has {request.characters} characters, which can't fit into {model.limit} tokens."
        raise _too_long(request, message)


def chat_task(request: ChatCompletionRequest, model: LoadedModel) -> GenerationTask:
    """Make the task of a chat request.

    Args:
        request: The request.
        model: The model.

    Raises:
        RequestError: The model has no chat template, or the prompt leaves no room for an answer.
        TemplateError: The chat template can't render the request.
    """
    if model.template is None:
        message = f"The model {request.model!r} has no chat template: use /v1/completions."
        raise RequestError(message, param="messages")
    tools = request.offered_tools
    prompt = model.template.prompt(request.given_messages, tools, request.chat_template_kwargs or {})
    parser = AnswerParser(
        prompt.form,
        model.special,
        within_reasoning=prompt.within_reasoning,
        tools=tools,
        parallel=request.parallel_tool_calls is not False,
    )
    return _task(request, model, prompt.inputs, parser)


def text_task(request: CompletionRequest, model: LoadedModel) -> GenerationTask:
    """Make the task of a completion request.

    Args:
        request: The request.
        model: The model.

    Raises:
        RequestError: The prompt leaves no room for an answer.
    """
    inputs = model.tokenizer(request.prompt, return_tensors="pt")
    return _task(request, model, inputs, AnswerParser(AnswerForm(), model.special))


def _task(
    request: GenerationRequest, model: LoadedModel, inputs: BatchEncoding, parser: AnswerParser
) -> GenerationTask:
    config = _sampling(copy.deepcopy(model.generation), request)
    room = _room(request, model, int(inputs["input_ids"].shape[-1]))
    limit = request.limit
    config.max_new_tokens = room if limit is None else min(limit, room)
    reader = AnswerReader(
        TokenDecoder(model.tokenizer, model.special),
        parser,
        stop_tokens=frozenset(config.eos_token_id or ()),
        stop_words=[model.special.mark(word) for word in (*request.stops, *model.stop_words)],
    )
    return GenerationTask(inputs.to(model.model.device), config, request.seed, reader)


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


def _room(request: GenerationRequest, model: LoadedModel, tokens: int) -> int:
    """Return how many tokens an answer may have: what the prompt leaves of the context."""
    if tokens == 0:
        raise RequestError("The prompt has no tokens.", param=request.prompt_field)
    if tokens >= model.limit:
        message = (
            f"The prompt has {tokens} tokens; the model {request.model!r} accepts at most {model.limit}, including the "
            "answer."
        )
        raise _too_long(request, message)
    return model.limit - tokens


def _too_long(request: GenerationRequest, message: str) -> RequestError:
    return RequestError(message, param=request.prompt_field, code="context_length_exceeded")
