"""A chat template in a server: what it leaves out is refused, and what it renders goes in and comes back out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.answers import ALL, NO_CALLS, NO_TOOLS, QUESTION, TOOLS, answer, call, made
from tuneyard.serving.errors import TemplateError
from tuneyard.serving.template import ChatTemplate, prompt_messages

RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "name": "measure", "content": "nine metres"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [call("measure", boat="Anna")]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


def rendered(name: str, root: Path, messages: list[dict[str, Any]], **more: Any) -> str:
    one = made(name, root)
    prompt = one.template.prompt(messages, more.pop("tools", None), more)
    return one.tokenizer.decode(prompt.inputs["input_ids"][0])


@pytest.mark.parametrize("name", ALL)
def test_tools_that_a_template_does_not_render_are_refused(root: Path, name: str) -> None:
    if name not in NO_TOOLS:
        assert "measure" in rendered(name, root, [QUESTION], tools=TOOLS)
        return
    with pytest.raises(TemplateError, match="does not render tools") as refused:
        rendered(name, root, [QUESTION], tools=TOOLS)
    assert refused.value.param == "tools"


@pytest.mark.parametrize("name", ALL)
def test_calls_and_results_are_rendered_or_refused(root: Path, name: str) -> None:
    tools = None if name in NO_TOOLS else TOOLS
    try:
        text = rendered(name, root, [QUESTION, CALLED, RESULT], tools=tools)
    except TemplateError as refused:
        assert name in NO_CALLS, refused
        assert refused.param == "messages"
    else:
        assert text.count("measure") > rendered(name, root, [QUESTION], tools=tools).count("measure")
        assert "Anna" in text
        assert "nine metres" in text


def test_template_that_leaves_out_one_of_several_calls_is_refused(root: Path) -> None:
    calls = [call("measure", boat="Anna"), call("weigh_2", boat="Bert")]
    with pytest.raises(TemplateError, match=r"omits messages\.1\.tool_calls"):
        rendered("gpt-oss", root, [QUESTION, {**CALLED, "tool_calls": calls}, RESULT], tools=TOOLS)
    assert "Bert" in rendered("qwen-2.5", root, [QUESTION, {**CALLED, "tool_calls": calls}, RESULT], tools=TOOLS)


def test_call_with_its_function_named_in_the_content_is_accepted(root: Path) -> None:
    message = {**CALLED, "content": "I measure with measure."}
    assert "Anna" in rendered("llama-3.1", root, [QUESTION, message, RESULT], tools=TOOLS)


def test_tool_result_that_a_template_leaves_out_is_refused(root: Path) -> None:
    with pytest.raises(TemplateError, match=r"omits messages\.1\.content"):
        rendered("zephyr", root, [QUESTION, RESULT])


@pytest.mark.parametrize("name", ["qwen3_vl", "gpt-oss"])
def test_system_message_that_a_template_leaves_out_is_refused(root: Path, name: str) -> None:
    """Both render one at the beginning, and no other."""
    system, reply = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": "Nine metres."}
    assert "Be brief." in rendered(name, root, [system, QUESTION])
    with pytest.raises(TemplateError, match=r"omits messages\.2\.content"):
        rendered(name, root, [QUESTION, reply, system, QUESTION])


TEMPLATES = {
    "the first tool alone": "{{ tools[0] | tojson if tools }}",
    "the number of tools": "{{ tools | length if tools }}",
    "no tool": "",
    "all tools, escaped": "{{ tools | tojson | replace('_', '\\\\_') if tools }}",
    "all tools, and no result without them": "{{ tools | tojson if tools else raise_exception('no tools') }}",
}


@pytest.mark.parametrize("kind", TEMPLATES)
def test_template_that_leaves_out_one_tool_is_refused(root: Path, kind: str) -> None:
    one = made("qwen-2.5", root)
    own = one.tokenizer.chat_template
    try:
        one.tokenizer.chat_template = TEMPLATES[kind] + "{{ messages[0]['content'] }}"
        template = ChatTemplate(one.tokenizer, one.special, ())
        refused = {
            "the first tool alone": r"tools\.1",
            "the number of tools": r"tools\.0",
            "no tool": "not render tools",
        }
        messages = [{"role": "user", "content": "measure weigh_2"}]
        if kind in refused:
            with pytest.raises(TemplateError, match=refused[kind]) as error:
                template.prompt(messages, TOOLS, {})
            assert error.value.param == "tools"
        else:
            assert template.prompt(messages, TOOLS, {}).inputs
    finally:
        one.tokenizer.chat_template = own


def test_template_exceptions_become_template_errors(root: Path) -> None:
    with pytest.raises(TemplateError, match="roles must alternate"):
        rendered("mistral", root, [QUESTION, QUESTION])
    # joins text and arguments, which come as what they say
    with pytest.raises(TemplateError, match="can't render these messages"):
        rendered("deepseek-v3", root, [QUESTION, CALLED, RESULT])
    with pytest.raises(TemplateError, match="not JSON"):
        function = {"name": "measure", "arguments": "{"}
        rendered("qwen-2.5", root, [QUESTION, {**CALLED, "tool_calls": [{"id": "1", "function": function}]}])


@pytest.mark.parametrize(
    "name", ["qwen-3", "glm-4-moe", "gpt-oss", "qwen-3.5-think", "lfm2_2_5", "seed-oss", "magistral"]
)
def test_reasoning_of_an_answer_is_rendered_under_the_template_s_own_name(root: Path, name: str) -> None:
    """Before a tool's result, where templates keep it."""
    thought = {**CALLED, "reasoning_content": "Let me see."}
    assert "Let me see." in rendered(name, root, [QUESTION, thought, RESULT], tools=TOOLS)
    assert "Let me see." in (answer(name, root, {**thought, "content": ""}) or "")


def test_template_kwargs_reach_the_template_and_its_form(root: Path) -> None:
    one = made("qwen-3.5-think", root)
    thinking, not_thinking = (one.template.prompt([QUESTION], None, {"enable_thinking": on}) for on in (True, False))
    assert thinking.within_reasoning
    assert not not_thinking.within_reasoning
    assert thinking.form != not_thinking.form


def test_forms_are_cached_by_rendering_options(root: Path) -> None:
    one = made("qwen-3", root)
    forms = {id(one.template.prompt([QUESTION], tools, {}).form) for tools in (None, TOOLS) for _ in range(3)}
    assert len(forms) == 2


def test_template_named_tool_use_is_used_with_tools(root: Path) -> None:
    """Some tokenizers have several templates, one of them for tools alone."""
    one = made("qwen-2.5", root)
    own = one.tokenizer.chat_template
    try:
        one.tokenizer.chat_template = {"default": ALL["chatml"].source, "tool_use": own}
        with_tools, without = (one.template.prompt([QUESTION], tools, {"x": 1}).form for tools in (TOOLS, None))
    finally:
        one.tokenizer.chat_template = own
    assert with_tools.calls is not None
    assert without.calls is None


def test_messages_reach_the_template_as_in_training() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    arguments = json.dumps({"boat": "Anna"})
    (question, called) = prompt_messages(
        [
            {"role": "user", "content": parts},
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]},
        ]
    )
    assert question == {"role": "user", "content": "a b"}
    assert called["content"] == ""
    assert called["tool_calls"][0]["function"]["arguments"] == {"boat": "Anna"}
