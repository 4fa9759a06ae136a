"""The chat template of a served model: the prompts it renders, and the form of the answers to them.

Prompts have the token ids that training uses (`data.template_messages`). A request is refused when the template leaves
out a part of it: a model can't use what it never sees.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import jinja2
from transformers import BatchEncoding, PreTrainedTokenizerFast

from tuneyard.data import template_messages
from tuneyard.serving.answers.decoding import SpecialTokens
from tuneyard.serving.answers.forms import AnswerForm, learn_form
from tuneyard.serving.errors import TemplateError

Messages = Sequence[Mapping[str, Any]]
Tools = list[dict[str, Any]]

_FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
"""What a template raises for messages that it can't render, on purpose or not."""
_MOST_FORMS = 64
_OTHER = "~"
"""A name that no function has."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of a model.

    Attributes:
        inputs: Token ids and attention mask, each of shape (1, tokens).
        form: The form of answers.
        within_reasoning: Whether the prompt opens reasoning.
    """

    inputs: BatchEncoding
    form: AnswerForm
    within_reasoning: bool


class ChatTemplate:
    """The chat template of one tokenizer.

    Args:
        tokenizer: The tokenizer; it has a chat template.
        special: Its special tokens.
        stops: The token ids that end an answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, special: SpecialTokens, stops: Iterable[int]) -> None:
        self._special = special
        self._tokenizer: Any = tokenizer  # its annotations are unions too wide to use
        self._stops = tuple(str(tokenizer.decode([stop])) for stop in stops)
        self._forms: dict[tuple[bool, str], AnswerForm] = {}

    def prompt(self, messages: Messages, tools: Tools | None, options: Mapping[str, Any]) -> Prompt:
        """Render a request.

        Args:
            messages: The conversation, in OpenAI's form.
            tools: The tools that the model may call; None for none.
            options: The template's own variables (`chat_template_kwargs`).

        Raises:
            TemplateError: The template can't render it, or leaves out the tools, a call or a tool's result.
        """
        messages = prompt_messages(messages)
        text = self._rendered(messages, tools, options)
        self._refuse_left_out(messages, tools, options, text)
        inputs = self._tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, return_tensors="pt", return_dict=True, **options
        )
        form = self._form(with_tools=bool(tools), options=options)
        return Prompt(inputs, form, form.begins_reasoning(self._special.mark(text)))

    def _rendered(self, messages: Messages, tools: Tools | None, options: Mapping[str, Any]) -> str:
        try:
            return self._render(messages, tools, True, options)
        except _FAILURES as error:
            raise TemplateError(
                f"The model's chat template can't render these messages: {error}", "messages"
            ) from error

    def _render(
        self, messages: Messages, tools: Tools | None, add_generation_prompt: bool, options: Mapping[str, Any]
    ) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=add_generation_prompt, tokenize=False, **options
            )
        )

    def _refuse_left_out(self, messages: Messages, tools: Tools | None, options: Mapping[str, Any], text: str) -> None:
        """Compare the rendering with one without a part: where both are equal, the model would never see it."""
        if tools:
            self._refuse_tools_left_out(messages, tools, options, text)
        calls = _called(messages)
        if calls:
            others = self._compared([_with_other_calls(message) for message in messages], tools, options)
            if others is not None:
                _refuse_missing(calls, text, others)
        for number, message in enumerate(messages):
            # A template may leave out an earlier answer's content and render reasoning and calls alone.
            content = "" if message.get("role") == "assistant" else message["content"].strip()
            if content and content not in text:
                changed = [*messages[:number], {**message, "content": ""}, *messages[number + 1 :]]
                if self._compared(changed, tools, options) == text:
                    raise _left_out(number, "content")

    def _refuse_tools_left_out(self, messages: Messages, tools: Tools, options: Mapping[str, Any], text: str) -> None:
        without = self._compared(messages, None, options) or ""  # a template may refuse a tool's result without tools
        if text == without:
            raise TemplateError(
                "The model's chat template does not render tools, so the model would not see them.", "tools"
            )
        for number, tool in enumerate(tools):
            name = tool["function"]["name"]
            if text.count(name) > without.count(name):
                continue
            other = {**tool, "function": {**tool["function"], "name": _OTHER}}
            if self._compared(messages, [*tools[:number], other, *tools[number + 1 :]], options) == text:
                raise TemplateError(
                    f"The model's chat template omits tools.{number}, so the model would not see it.", "tools"
                )

    def _compared(
        self,
        messages: Messages,
        tools: Tools | None,
        options: Mapping[str, Any],
        add_generation_prompt: bool = True,
    ) -> str | None:
        """Render messages to compare with; None where the template refuses them."""
        try:
            return self._render(messages, tools, add_generation_prompt, options)
        except _FAILURES:
            return None

    def _form(self, *, with_tools: bool, options: Mapping[str, Any]) -> AnswerForm:
        key = with_tools, json.dumps(options, sort_keys=True, default=str)
        if key not in self._forms:
            if len(self._forms) >= _MOST_FORMS:  # options come from clients
                self._forms.clear()
            source = str(self._tokenizer.get_chat_template(None, [{}] if with_tools else None))

            def render(messages: Messages, tools: Tools | None, add_generation_prompt: bool) -> str | None:
                return self._compared(prompt_messages(messages), tools, options, add_generation_prompt)

            self._forms[key] = learn_form(render, self._special.mark, source, self._stops, with_tools=with_tools)
        return self._forms[key]


def prompt_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Convert a request's messages for a chat template: as training does, with reasoning under every name.

    Args:
        messages: In OpenAI's form.

    Raises:
        TemplateError: The arguments of a tool call are not JSON.
    """
    try:
        taken = template_messages({**message, "content": _text(message.get("content"))} for message in messages)
    except ValueError as error:
        raise TemplateError(f"The arguments of a tool call are not JSON: {error}", "messages") from error
    # The server returns reasoning as `reasoning_content`; gpt-oss's template reads it as `thinking`.
    return [{"thinking": one["reasoning"], **one} if one.get("reasoning") else one for one in taken]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    return " ".join(part["text"] for part in content) if isinstance(content, list) else content or ""


def _called(messages: Messages) -> list[tuple[int, str]]:
    """List every tool call: its message's number, and the function."""
    return [
        (number, str(call.get("function", call).get("name")))
        for number, message in enumerate(messages)
        for call in cast("list[dict[str, Any]]", message.get("tool_calls") or [])
    ]


def _with_other_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the functions that a message calls."""
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        {**call, "function": {**call["function"], "name": _OTHER}} if "function" in call else {**call, "name": _OTHER}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _refuse_missing(calls: list[tuple[int, str]], text: str, others: str) -> None:
    wanted = Counter(name for _, name in calls)
    for number, name in calls:
        if text.count(name) - others.count(name) < wanted[name]:
            raise _left_out(number, "tool_calls")


def _left_out(number: int, part: str) -> TemplateError:
    message = f"The model's chat template omits messages.{number}.{part}, so the model would not see it."
    return TemplateError(message, "messages")
