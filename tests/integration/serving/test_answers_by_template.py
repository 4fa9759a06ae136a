"""Answers of a live server through OpenAI's own client, for models of one architecture with many chat templates.

The models write what the test has chosen (`reciting`). Expectations are written out here, or decoded by the tokenizer
from the generated tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import pytest

from lab import reciting, serving
from lab.chat_families import FAMILIES, TOOLS, make_family_tokenizer
from lab.reciting import QUESTION, Script

ANNA = ("measure", {"boat": "Anna"})
CALL = '{"name": "measure", "arguments": {"boat": "Anna"}}'


@dataclass(frozen=True)
class Case:
    """A script, and the message that it is parsed as."""

    script: Script
    content: str | None
    reasoning: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tools: bool = False

    @property
    def reason(self) -> str:
        return "tool_calls" if self.calls else "stop" if self.script.ends else "length"


def plain(family: str, text: str, *, tools: bool = False, ends: bool = True) -> Case:
    """A text that is content, all of it."""
    return Case(Script(family, text, ends), text, tools=tools)


CASES = {
    # Qwen's architecture, and other templates: nothing is Qwen's form there.
    "org/llama-3": plain("llama-3", "<think>\nSo.\n</think>\n\n<tool_call>\n" + CALL + "\n</tool_call>"),
    "org/zephyr": plain("zephyr", "    def f():\n        return 1\n"),
    "org/mistral": plain("mistral", " <tool_call> is a word."),
    "org/chatml": plain("chatml", "\n\n<think>not mine</think>\n"),
    "org/gemma-3": Case(Script("gemma-3", "Yes.<start_of_turn>No."), "Yes.No."),
    "org/phi-3": plain("phi-3", "[]{}<tool_call>"),
    # Qwen's own.
    "qwen/thinks": Case(Script("qwen-3", "<think>\nI see:\n two.\n</think>\n\n    four"), "    four", "I see:\n two."),
    "qwen/thinks-not": Case(Script("qwen-3", "<think>\n\n</think>\n\nFour."), "Four."),
    "qwen/never-ends": plain("qwen-3", "<think>\nI wonder"),
    "qwen/never-ends-with-tools": plain("qwen-3", "<think>\nI wonder", tools=True),
    "qwen/calls": Case(Script("qwen-2.5", f"<tool_call>\n{CALL}\n</tool_call>"), None, "", [ANNA], True),
    "qwen/calls-twice": Case(
        Script(
            "qwen-3",
            f"<think>\nSo.\n</think>\n\nI do.\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>",
        ),
        "I do.", "So.", [ANNA, ANNA], True,
    ),
    "qwen/calls-no-json": plain("qwen-2.5", "<tool_call>\nmeasure the Anna\n</tool_call>", tools=True),
    "qwen/calls-without-tools": Case(Script("qwen-3-2507", f"<tool_call>{CALL}</tool_call>"), CALL),
    "qwen/calls-and-is-cut": plain("qwen-2.5", '<tool_call>\n{"name": "meas', tools=True, ends=False),
    "qwen/xml": Case(
        Script(
            "qwen-3.5-think",
            "So.\n</think>\n\n<tool_call>\n<function=measure>\n<parameter=boat>\nAnna\n</parameter>\n</function>\n</tool_call>",
        ),
        None, "So.", [ANNA], True,
    ),
    # Other templates' own.
    "llama/calls": Case(Script("llama-3.1", CALL.replace("arguments", "parameters")), None, "", [ANNA], True),
    "llama/json": plain("llama-3.1", '{"name": "Anna", "parameters": {}}', tools=True),
    "mistral/calls": Case(Script("mistral-tools", '[TOOL_CALLS]measure[ARGS]{"boat": "Anna"}'), None, "", [ANNA], True),
    "mistral/no-json": plain("mistral-tools", "[TOOL_CALLS]measure[ARGS]{Anna}", tools=True),
    "deepseek/thinks": Case(Script("deepseek-r1-distill", "So.\n</think>\n\nYes."), "Yes.", "So."),
    "deepseek/never-ends": plain("deepseek-r1-distill", "So it goes."),
    "glm/calls": Case(
        Script(
            "glm-4-moe",
            "\n<think>So.</think>\n<tool_call>measure\n<arg_key>boat</arg_key>\n<arg_value>Anna</arg_value>\n</tool_call>",
        ),
        None, "So.", [ANNA], True,
    ),
    "openai/thinks": Case(
        Script("gpt-oss", "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>final<|message|>Yes."),
        "Yes.", "So.",
    ),
    "openai/calls": Case(
        Script("gpt-oss", ' to=functions.measure<|channel|>commentary json<|message|>{"boat": "Anna"}'),
        None, "", [ANNA], True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    root = tmp_path_factory.mktemp("reciting")
    values = reciting.put_reciters(root / "store", root / "beside", {name: one.script for name, one in CASES.items()})
    running = serving.start(values, root / "store", root / "server")
    try:
        yield openai.OpenAI(base_url=running.url, api_key=running.key, max_retries=0)
    finally:
        running.process.kill()
        running.process.wait()


def ask(client: openai.OpenAI, name: str, **more: Any) -> Any:
    case = CASES[name]
    cut = {} if case.script.ends else {"max_tokens": length(case.script)}
    tools = {"tools": list(TOOLS)} if case.tools else {}
    return client.chat.completions.create(model=name, messages=QUESTION, temperature=0, **cut, **tools, **more)


def length(script: Script) -> int:
    """How many tokens a script has."""
    import tempfile
    from pathlib import Path

    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = AutoTokenizer.from_pretrained(make_family_tokenizer(Path(folder), FAMILIES[script.family]))
    return len(tokenizer(script.text, add_special_tokens=False)["input_ids"])


def found(calls: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls or ()]


@pytest.mark.parametrize("name", CASES)
def test_answer_is_parsed_by_the_template_of_its_model(client: openai.OpenAI, name: str) -> None:
    case = CASES[name]
    answer = ask(client, name)
    message = answer.choices[0].message
    assert message.content == case.content
    assert getattr(message, "reasoning_content", "") == case.reasoning
    assert found(message.tool_calls) == case.calls
    assert answer.choices[0].finish_reason == case.reason
    assert answer.usage.completion_tokens == length(case.script) + case.script.ends


@pytest.mark.parametrize("name", CASES)
def test_stream_is_the_same_answer(client: openai.OpenAI, name: str) -> None:
    case = CASES[name]
    content, reasoning, calls, reasons = "", "", [], []
    for chunk in ask(client, name, stream=True):
        assert chunk.usage is None
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        reasoning += getattr(choice.delta, "reasoning_content", "") or ""
        calls += choice.delta.tool_calls or ()
        reasons.append(choice.finish_reason)
    assert (content, reasoning) == (case.content or "", case.reasoning)
    assert found(calls) == case.calls
    assert [call.index for call in calls] == list(range(len(calls)))
    assert [reason for reason in reasons if reason] == [reasons[-1]] == [case.reason]


@pytest.mark.parametrize("name", [name for name, one in CASES.items() if one.calls])
def test_call_can_be_sent_back_with_its_result(client: openai.OpenAI, name: str) -> None:
    message = ask(client, name).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "nine metres"} for call in message.tool_calls]
    back = [*QUESTION, message.model_dump(exclude_none=True), *results]
    request = {"model": name, "tools": list(TOOLS), "max_tokens": 1}
    assert client.chat.completions.create(messages=back, **request).usage.prompt_tokens > 0


def test_parallel_tool_calls_false_returns_one_call(client: openai.OpenAI) -> None:
    answer = ask(client, "qwen/calls-twice", parallel_tool_calls=False)
    assert found(answer.choices[0].message.tool_calls) == [ANNA]
    assert answer.choices[0].finish_reason == "tool_calls"


def test_tool_choice_none_returns_no_calls(client: openai.OpenAI) -> None:
    answer = ask(client, "qwen/calls", tool_choice="none")
    assert answer.choices[0].message.content == CALL.join(
        ("\n", "\n")
    )  # the marks are special tokens of this tokenizer
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["org/llama-3", "org/zephyr", "org/chatml", "org/gemma-3", "deepseek/thinks"])
def test_tools_for_a_template_without_them_are_refused(client: openai.OpenAI, name: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="does not render tools") as refused:
            client.chat.completions.create(model=name, messages=QUESTION, tools=list(TOOLS), stream=stream)
        assert refused.value.param == "tools"
    request = {"tools": list(TOOLS), "tool_choice": "none", "max_tokens": 1}
    assert client.chat.completions.create(model=name, messages=QUESTION, **request).choices


def test_stop_word_within_reasoning_ends_the_answer(client: openai.OpenAI) -> None:
    answer = ask(client, "qwen/thinks", stop=["two"])
    assert answer.choices[0].message.content == "<think>\nI see:\n "
    assert answer.choices[0].finish_reason == "stop"


def test_stop_word_may_be_a_special_token(client: openai.OpenAI) -> None:
    answer = ask(client, "org/gemma-3", stop=["<start_of_turn>"])
    assert answer.choices[0].message.content == "Yes."
    assert answer.choices[0].finish_reason == "stop"


def test_every_model_is_retrieved_by_its_name(client: openai.OpenAI) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert set(listed) == {*CASES, "qwen"}
    for name in listed:
        model = client.models.retrieve(name)
        assert (model, model.object, model.owned_by) == (listed[name], "model", "tuneyard")
    others = ("nobody", "org", "org/llama-3/", "org/llama-3/x", "ORG/llama-3", "org%2Fllama-3", "a b?c#d", "é", "...")
    for name in others:
        with pytest.raises(openai.NotFoundError, match="The server has no model"):
            client.models.retrieve(name)
