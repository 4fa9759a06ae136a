"""Random answers through OpenAI's own client: a stream equals the whole answer, and neither ever fails.

The answers are random changes of what each template teaches: marks that are cut, doubled or misplaced, half a call,
special tokens anywhere. transformers generates them; a hook decides each token.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import serving
from lab.answers import ALL, MESSAGES, NO_CALLS, NO_TOOLS, QUESTION, TOOLS, answer, made
from lab.reciting import make_qwen
from tuneyard.serving.app import build_app
from tuneyard.serving.generation import ModelManager
from tuneyard.serving.loading import LoadedModel

CONTENT_MARKS = {"gpt-oss", "muse_glimmer", "hunyuan", "cohere-r7b", "cohere2"}
PIECES = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "measure", "arguments": {"boat": "Anna"}}', "\n\n",
    '{"name": "measure", "parameters": {}}', "  ", "<function=measure>", "</function>", "<parameter=boat>", "measure",
    "</parameter>", "<arg_key>", "<arg_value>", "</arg_value>", "[TOOL_CALLS]", "[ARGS]", '{"boat": "Anna"}', "word",
    "é🛶日本", "[", "]", "{", "}", "(", ")", 'boat="Anna"', "[THINK]", "[/THINK]", "analysis", '{"a":' * 30, "<", "|",
    '"', "\\", " to=functions.measure",
)  # fmt: skip


class Reciter:
    """Decides each token of a model's next answer.

    Args:
        model: A model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self.ids: list[int] = []
        self._at = 0
        model.register_forward_hook(self._decide, with_kwargs=True)

    def _decide(self, model: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        del model, args
        self._at = 0 if kwargs["input_ids"].shape[1] > 1 else self._at + 1
        output.logits[:, -1, self.ids[self._at]] += 1e6


@dataclass(frozen=True)
class Received:
    """An answer as a client receives it."""

    content: str
    reasoning: str
    calls: list[tuple[str, str]]
    finish_reason: str
    tokens: int


@cache
def reciting_app(root: Path) -> tuple[Reciter, openai.AsyncOpenAI]:
    """A server of one model under every template, in this process."""
    from transformers import GenerationConfig, Qwen2ForCausalLM

    model = Qwen2ForCausalLM.from_pretrained(make_qwen(root / "qwen")).eval()
    loaded: list[LoadedModel] = []
    for name in ALL:
        one = made(name, root)
        stops = one.tokenizer.convert_tokens_to_ids(list(ALL[name].stops))
        generation = GenerationConfig(eos_token_id=stops, pad_token_id=stops[0], do_sample=False)
        loaded.append(
            LoadedModel(
                (name,), "", model, one.tokenizer, generation, 4096, 50, one.special, one.template, stop_words=()
            )
        )
    transport = httpx2.ASGITransport(app=build_app(ModelManager(loaded), serving.KEY))
    http = httpx2.AsyncClient(transport=transport)
    return Reciter(model), openai.AsyncOpenAI(
        base_url="http://in-process/v1", api_key=serving.KEY, max_retries=0, http_client=http
    )


def random_answer(rng: random.Random, name: str, root: Path) -> str:
    special = [*ALL[name].special, *ALL[name].stops]
    if rng.random() < 0.3:
        return "".join(rng.choice((*PIECES, *special, *special)) for _ in range(rng.randrange(12)))
    kinds = [kind for kind in MESSAGES if "call" not in kind or name not in NO_CALLS]
    text = answer(name, root, MESSAGES[rng.choice(kinds)]) or "Four."
    for _ in range(rng.randrange(4)):
        start = rng.randrange(len(text) + 1)
        text = text[:start] + rng.choice((*PIECES, *special, "")) + text[start + rng.choice((0, 0, 1, 2, 5, 20)) :]
    return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.3 else text


def random_request(rng: random.Random, name: str, ids: list[int]) -> dict[str, Any]:
    request: dict[str, Any] = {"model": name, "messages": [QUESTION], "max_tokens": rng.randrange(1, len(ids) + 1)}
    if rng.random() < 0.7:
        request["max_tokens"] = len(ids)
    if name not in NO_TOOLS and rng.random() < 0.8:
        request |= {"tools": TOOLS, "parallel_tool_calls": rng.random() < 0.8}
    if rng.random() < 0.2:
        request["stop"] = rng.choice(["word", "\n", "measure", "</", "}}"])
    return request


async def whole(client: openai.AsyncOpenAI, request: dict[str, Any]) -> Received:
    (choice,) = (got := await client.chat.completions.create(**request)).choices
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
    assert choice.message.content is not None or calls
    reasoning = getattr(choice.message, "reasoning_content", "")
    return Received(choice.message.content or "", reasoning, calls, choice.finish_reason, got.usage.completion_tokens)


async def streamed(client: openai.AsyncOpenAI, request: dict[str, Any]) -> Received:
    content, reasoning, calls, reasons, tokens = "", "", [], [], 0
    async for chunk in await client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ):
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
            continue
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", "") or ""
        calls += [(call.function.name, call.function.arguments) for call in choice.delta.tool_calls or ()]
        reasons += [choice.finish_reason] if choice.finish_reason else []
    (reason,) = reasons
    return Received(content, reasoning, calls, reason, tokens)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("examples", [50, pytest.param(2000, marks=pytest.mark.soak)])
def test_stream_of_any_answer_is_the_whole_answer(root: Path, examples: int) -> None:
    reciter, client = reciting_app(root)

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(name=st.sampled_from(sorted(ALL)), rng=st.randoms(use_true_random=False))
    def check(name: str, rng: random.Random) -> None:
        one = made(name, root)
        stop = one.tokenizer.convert_tokens_to_ids(ALL[name].stops[0])
        text = random_answer(rng, name, root)
        reciter.ids = [*one.tokenizer(text, add_special_tokens=False)["input_ids"], stop]
        request = random_request(rng, name, reciter.ids)

        async def both() -> tuple[Received, Received]:
            return await whole(client, request), await streamed(client, request)

        received, pieces = asyncio.run(both())
        assert pieces == received
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in received.calls)
        assert received.tokens <= request["max_tokens"]
        if name not in CONTENT_MARKS and not received.calls and not received.reasoning and "think" not in text.lower():
            written = one.tokenizer.decode(reciter.ids[: received.tokens], skip_special_tokens=True)
            # Both bare: ordinary tokens may spell a special one, and one that began what did not parse is shown.
            assert one.bare(received.content) == one.bare(written.partition(request.get("stop") or "\0")[0])

    check()
