"""A real server's answers: those of the published weights, for every name, streamed or whole."""

from __future__ import annotations

import http.client
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import openai
import pytest

from lab import serving

QUESTION = [{"role": "user", "content": "What is a yard?"}]


class KeepOriginal:
    """The values of a tokenizer that is kept as it is."""

    chat_template_name = "keep-original"
    missing_pad_token_strategy = "bos-repurpose"


NAMES = {"tiny": "", "tuned": "adapter-1", "other": "adapter-2"}


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 0, **more}


def content_of(server: serving.Server, model: str, **more: Any) -> str:
    status, answer = server.ask("/v1/chat/completions", chat(model, **more))
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"]


def streamed(server: serving.Server, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    status, text = server.raw(path, json.dumps({**body, "stream": True}).encode())
    assert status == 200, text
    *events, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


@cache
def expected(beside: Path, adapter: str) -> str:
    """The answer of plain transformers and peft with the same weights."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(beside / "base")
    model = AutoModelForCausalLM.from_pretrained(beside / "base")
    if adapter:
        model = PeftModel.from_pretrained(model, beside / adapter)
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("model", NAMES)
def test_each_name_answers_with_its_own_weights(server, stored_models, model):
    assert content_of(server, model) == expected(stored_models.beside, NAMES[model])


def test_adapters_change_the_base_s_answers(stored_models):
    assert len({expected(stored_models.beside, adapter) for adapter in NAMES.values()}) == len(NAMES)


def test_concurrent_requests_to_several_models_are_independent(server, stored_models):
    names = [*NAMES] * 6
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda model: content_of(server, model), names))
    assert answers == [expected(stored_models.beside, NAMES[model]) for model in names]


def test_models_are_listed_requested_first_and_adapters_with_their_base(server):
    _, listed = server.ask("/v1/models")
    assert [(card["id"], card["parent"]) for card in listed["data"]] == [
        ("tuned", "tiny"),
        ("tiny", None),
        ("brief", "tiny"),
        ("other", "tiny"),
    ]
    assert server.ready()["models"] == [card["id"] for card in listed["data"]]


def test_stream_has_the_same_text_and_usage_as_the_whole(server):
    _, whole = server.ask("/v1/completions", {"model": "tiny", "prompt": "A yard", "max_tokens": 9, "temperature": 0})
    request = {"model": "tiny", "prompt": "A yard", "max_tokens": 9, "temperature": 0}
    *chunks, last = streamed(server, "/v1/completions", {**request, "stream_options": {"include_usage": True}})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert whole["usage"]["completion_tokens"] == 9


def test_streamed_chat_begins_with_a_role_and_ends_with_a_reason(server):
    chunks = streamed(server, "/v1/chat/completions", chat("tiny"))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == content_of(server, "tiny")
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_answer_ends_at_the_stop_tokens_of_its_own_model(server):
    """The adapter `brief` names every token as one that ends an answer; its base does not."""
    status, answer = server.ask("/v1/chat/completions", chat("brief"))
    assert (status, answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == (200, "stop", 1)


def test_stop_words_end_an_answer_before_them(server):
    full = content_of(server, "other")
    word = full[3:5]
    assert content_of(server, "other", stop=word) == full[: full.index(word)]
    chunks = streamed(server, "/v1/chat/completions", chat("other", stop=[word]))
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == full[: full.index(word)]


def test_temperature_decides_whether_to_sample(server):
    greedy = {content_of(server, "tiny", temperature=0) for _ in range(3)}
    sampled = {content_of(server, "tiny", temperature=2, seed=seed) for seed in range(3)}
    assert len(greedy) == 1
    assert len(sampled) > 1


@cache
def sampled_alone(beside: Path, adapter: str, seed: int) -> str:
    """The sample of plain transformers and peft after `torch.manual_seed`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(beside / "base")
    model = AutoModelForCausalLM.from_pretrained(beside / "base")
    if adapter:
        model = PeftModel.from_pretrained(model, beside / adapter)
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = model.generate(**inputs, max_new_tokens=40, do_sample=True, temperature=1.5, top_p=0.9)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


SAMPLED = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 40}


@pytest.fixture(scope="module")
def client(server: serving.Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)


@pytest.mark.parametrize("seed", [0, 7, -1, 2**62])
def test_seed_gives_the_same_answer_as_plain_transformers(client, stored_models, seed):
    for model, adapter in NAMES.items():
        answer = client.chat.completions.create(model=model, messages=QUESTION, seed=seed, **SAMPLED)
        assert answer.choices[0].message.content == sampled_alone(stored_models.beside, adapter, seed)


def test_seed_gives_the_same_answer_among_concurrent_requests(client, stored_models):
    """Among requests to the same and other models, with the same, another and no seed, whole and streamed."""

    def ask(model: str, seed: int | None, stream: bool) -> str:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, stream=stream, **({} if seed is None else {"seed": seed}), **SAMPLED
        )
        if not stream:
            return answer.choices[0].message.content or ""
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer)

    requests = [(model, seed, stream) for model in NAMES for seed in (5, 5, None, 6) for stream in (False, True)] * 2
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda each: ask(*each), requests))
    for (model, seed, _), answer in zip(requests, answers, strict=True):
        if seed is not None:
            assert answer == sampled_alone(stored_models.beside, NAMES[model], seed)
    without = [answer for (_, seed, _), answer in zip(requests, answers, strict=True) if seed is None]
    assert len(set(without)) == len(without)


def test_answer_without_a_limit_may_fill_the_context(client):
    long = "A yard " * 120  # the rest is still more than the 1,024 tokens that a server of transformers would allow
    chat = client.chat.completions.create(model="other", messages=[{"role": "user", "content": long}], temperature=0)
    assert (chat.usage.total_tokens, chat.choices[0].finish_reason) == (2048, "length")
    text = client.completions.create(model="other", prompt=long, temperature=0)
    assert (text.usage.total_tokens, text.choices[0].finish_reason) == (2048, "length")
    assert text.usage.completion_tokens > 1024


@pytest.mark.parametrize("path", ["chat", "text"])
def test_stream_has_usage_only_when_requested(client, path):
    def ask(**more: Any) -> list[Any]:
        rest = {"model": "tiny", "max_tokens": 4, "temperature": 0, "stream": True, **more}
        if path == "chat":
            return list(client.chat.completions.create(messages=QUESTION, **rest))
        return list(client.completions.create(prompt="A yard", **rest))

    for options in ({}, {"stream_options": {"include_usage": False}}):
        chunks = ask(**options)
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    *chunks, last = ask(stream_options={"include_usage": True})
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert last.choices == []
    assert last.usage.completion_tokens == 4
    assert last.usage.total_tokens == last.usage.prompt_tokens + 4


def test_max_completion_tokens_is_honoured(server):
    _, answer = server.ask("/v1/chat/completions", chat("tiny", max_tokens=None, max_completion_tokens=3))
    assert answer["usage"]["completion_tokens"] == 3


def test_answer_is_limited_to_the_rest_of_the_context(server):
    body = {"model": "tiny", "prompt": "a" * 4000, "max_tokens": 500, "temperature": 0}
    status, answer = server.ask("/v1/completions", body)
    while status == 400:  # a few tokens at a time, until the question fits
        body["prompt"] = body["prompt"][: -len(body["prompt"]) // 16]
        status, answer = server.ask("/v1/completions", body)
    usage = answer["usage"]
    assert usage["total_tokens"] <= 2048
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_answer_of_a_disconnected_client_is_not_finished(server, stream):
    """The next request to the same model is answered while a long answer of another model is running."""
    long = {"max_tokens": 900}
    finished = threading.Event()

    def other() -> None:
        content_of(server, "other", **long)
        finished.set()

    going_on = threading.Thread(target=other)
    going_on.start()
    host, port = server.url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("tuned", stream=stream, **long)), headers)
    if stream:
        assert connection.getresponse().readline()
    connection.close()
    content_of(server, "tuned", max_tokens=1)
    first = not finished.is_set()
    going_on.join()
    assert first, "the answer was generated to its end"


def test_ignored_engine_flags_are_logged(server):
    assert "Flags without effect where vLLM is not installed: gpu_memory_utilization." in server.log.read_text()


def test_prompts_of_200_conversations_have_the_token_ids_of_training(server, stored_models):
    from lab.training import conversations
    from tuneyard.data import ChatEncoder, load_tokenizer, read_rows

    path = stored_models.beside / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in conversations(200)), encoding="utf-8")
    encoder = ChatEncoder(load_tokenizer(stored_models.beside / "base", KeepOriginal()))
    count = 0
    for row in read_rows([path]):
        numbers = [number for number, message in enumerate(row.messages) if message.role == "assistant"]
        learnt = [span for each in encoder.encode(row) for span in each.answers]
        for number, (start, _) in zip(numbers, learnt, strict=True):
            messages = [message.as_dict() for message in row.messages[:number]]
            status, answer = server.ask("/v1/chat/completions", chat("tiny", max_tokens=1, messages=messages))
            assert (status, answer["usage"]["prompt_tokens"]) == (200, start)
            count += 1
    assert count >= 200
