"""A conversation rendered by a chat template as a server does: the prompt before each answer, and the answer.

Before an answer, a server renders the messages so far with a generation prompt; the text that the template renders
after that prompt once the answer follows is what the model has to generate. Nothing is assumed about earlier turns: a
template may omit their reasoning, end them differently, or render the tools with the last question only. Text only;
`encoding` turns it into token ids.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneyard.data.conversations import Conversation, Message, shown
from tuneyard.errors import InvalidDataError, Problem

if TYPE_CHECKING:
    from jinja2 import TemplateError
    from transformers import PreTrainedTokenizerFast

    from tuneyard.data.bounded import TemplateProcess

_REASONING = ("reasoning_content", "reasoning", "thinking")
_THINK = re.compile(r"</?think>")
_OPENED = re.compile(r"<think>\s*$")
_PROBE = "What comes next?"


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a conversation, as text.

    Attributes:
        number: Its message's index.
        prompt: The server's prompt for it.
        rest: The text after the prompt: the answer, its end, and anything that the template puts after that.
    """

    number: int
    prompt: str
    rest: str


def template_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as servers pass them to a chat template.

    As vLLM does: missing content is empty, arguments of tool calls that are JSON text are parsed (templates iterate
    them), and reasoning is passed under both of its names. Our own server and the training both call this.

    Args:
        messages: In OpenAI's format.

    Raises:
        ValueError: If the arguments of a tool call are not JSON.
    """
    taken: list[dict[str, Any]] = []
    for message in messages:
        one = {**message, "content": message.get("content") or ""}
        reasoning = message.get("reasoning") or message.get("reasoning_content")
        if reasoning:
            one |= {"reasoning": reasoning, "reasoning_content": reasoning}
        if message.get("tool_calls"):
            one["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        taken.append(one)
    return taken


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    parsed = {**function, "arguments": json.loads(arguments or "{}")}
    return {**call, "function": parsed} if "function" in call else parsed


class Renderer:
    """Renders conversations with a tokenizer's chat template.

    Args:
        tokenizer: As `load_tokenizer` returns it.
        stops: The texts of the tokens that the server stops at.
        process: The process that renders; None for the shared one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, stops: Iterable[str], process: TemplateProcess | None = None
    ) -> None:
        from tuneyard.data.bounded import SHARED

        self._tokenizer: Any = tokenizer  # its own annotations are unions too wide to use
        self._stops = tuple(stops)
        self._process = process or SHARED
        self._ended: TemplateError | None = None
        self._known: tuple[Conversation | None, dict[tuple[int, bool], str | TemplateError]] = (None, {})

    def turns(self, conversation: Conversation, answers: Sequence[int]) -> list[Turn]:
        """Return answers with their prompts.

        Args:
            conversation: Any conversation.
            answers: The indices of some of the assistant's messages, in order.

        Raises:
            InvalidDataError: With one problem: the template refuses the conversation, omits a part of it, or renders it
                so that an answer can't be separated from its prompt.
        """
        if "messages[].tool_calls" in self.unrendered(conversation):
            raise refusal(conversation, "has tool_calls, which the chat template does not render")
        cuts = [cut for number in answers for cut in ((number, True), (number + 1, False))]
        self._known = (conversation, self._rendered(conversation, cuts))
        turns = [self._turn(conversation, number) for number in answers]
        _refuse_omitted_results(conversation, turns[-1].prompt)
        return turns

    def unrendered(self, conversation: Conversation) -> list[str]:
        """Return the names of fields that the conversation has but the chat template does not use."""
        source = self._source(conversation)
        names = ["tools"] if conversation.tools and "tools" not in source else []
        used = dict.fromkeys(key for message in conversation.messages for key in message.fields)
        return names + [f"messages[].{key}" for key in used if not self._mentions(source, key)]

    def _mentions(self, source: str, key: str) -> bool:
        # If the generation prompt opens <think>, reasoning is rendered after it, whatever the field's name.
        other = {"reasoning": "reasoning_content", "reasoning_content": "reasoning"}.get(key, key)
        opens = key in _REASONING and not any(name in source for name in _REASONING) and "<think>" in source
        return key in source or other in source or opens

    def _source(self, conversation: Conversation) -> str:
        return self._tokenizer.get_chat_template(None, tools_of(conversation))

    def _turn(self, conversation: Conversation, number: int) -> Turn:
        prompt = self._render(conversation, number, add_generation_prompt=True)
        whole = self._render(conversation, number + 1)
        rest = self._after(conversation, number, prompt, whole)
        opened = _OPENED.search(prompt)
        if rest is None and opened:
            rest = self._after(conversation, number, prompt[: opened.start()], whole)
            rest = rest if rest is None else _reasoned(conversation.messages[number], rest)
        if rest is None:
            raise refusal(
                conversation,
                f"renders differently up to messages[{number}] once the answer follows, so the answer can't be "
                "separated from a server's prompt",
                suggestion="chat_template_name chat-ml",
            )
        if not any(stop in rest for stop in self._stops):
            rest += self._begins_next_turn(conversation, number, rest)
        return Turn(number, prompt, rest)

    def _after(self, conversation: Conversation, number: int, prompt: str, whole: str) -> str | None:
        """Return the text after the prompt in `whole`; None if the prompt is not in it."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if number < 2:
            return None
        # Earlier messages may be rendered differently (gpt-oss omits the reasoning before a tool call once the final
        # answer follows); the text of the last message before the answer must be unchanged.
        before = self._render(conversation, number - 1)
        added = prompt[_shared(before, prompt) :]
        place = whole.rfind(added) if added.strip() else -1
        return None if place < 0 else whole[place + len(added) :]

    def _begins_next_turn(self, conversation: Conversation, number: int, rest: str) -> str:
        """Return the stop token that begins the next turn, if nothing else ends an answer (GLM); else nothing."""
        role = "tool" if conversation.messages[number].fields.get("tool_calls") else "user"
        probed = Conversation(
            (*conversation.messages[: number + 1], Message(role, _PROBE)), conversation.tools, conversation.where
        )
        try:
            text = self._render(probed, number + 2)
        except InvalidDataError:
            return ""
        before = text[: text.rfind(_PROBE)]
        places = {stop: before.rfind(stop) for stop in self._stops}
        stop = max(places, key=lambda name: places[name], default="")
        return stop if stop and places[stop] > 0 and before[: places[stop]].endswith(rest[-8:]) else ""

    def _render(self, conversation: Conversation, number: int, *, add_generation_prompt: bool = False) -> str:
        cut = (number, add_generation_prompt)
        of, known = self._known
        text = known[cut] if of is conversation and cut in known else self._rendered(conversation, [cut])[cut]
        if isinstance(text, str):
            return text
        roles = ", ".join(message.role for message in conversation.messages)
        reason = shown(str(text), longest=200)
        raise refusal(conversation, f"is refused by the chat template: {reason}", f"roles {roles}") from text

    def _rendered(
        self, conversation: Conversation, cuts: list[tuple[int, bool]]
    ) -> dict[tuple[int, bool], str | TemplateError]:
        """Render beginnings of a conversation. A template that exceeded a limit once is not run for further rows."""
        from tuneyard.data.bounded import TemplateLimitError, template_arguments

        if self._ended is not None:
            return dict.fromkeys(cuts, self._ended)
        longest = max(number for number, _ in cuts)
        try:
            messages = template_messages(message.as_dict() for message in conversation.messages[:longest])
        except json.JSONDecodeError as error:
            raise refusal(conversation, "has a tool call whose arguments are not JSON", str(error)) from error
        arguments = template_arguments(self._tokenizer, tools_of(conversation))
        texts = self._process.render(messages, cuts, **arguments)
        self._ended = next((text for text in texts if isinstance(text, TemplateLimitError)), None)
        return dict(zip(cuts, texts, strict=True))


def check_answer(conversation: Conversation, turn: Turn, answer: str, unrendered: Iterable[str]) -> None:
    """Refuse an answer that lacks a part of its message.

    Args:
        conversation: The row.
        turn: The answer to check.
        answer: Its text, including the token that the server stops at.
        unrendered: Fields that the chat template does not use; they are reported elsewhere.

    Raises:
        InvalidDataError: With the part that the chat template omits.
    """
    message = conversation.messages[turn.number]
    fields = [key for key in _REASONING if key in message.fields and f"messages[].{key}" not in unrendered]
    parts = {"content": message.content, **{key: str(message.fields[key]) for key in fields}}
    for name, text in parts.items():
        if not all(piece.strip() in answer for piece in _THINK.split(text)):
            raise refusal(
                conversation,
                f"has messages[{turn.number}].{name} that the chat template omits from the answer",
                shown(text),
                suggestion="remove it, or chat_template_name chat-ml" if name != "content" else "",
            )
    names = [str(call.get("function", call).get("name")) for call in message.fields.get("tool_calls", ())]
    missing = next((name for name in names if answer.count(name) < names.count(name)), None)
    if missing is not None:
        raise refusal(
            conversation, f"has tool_calls in messages[{turn.number}] that the chat template does not render", missing
        )


def _shared(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _reasoned(message: Message, rest: str) -> str:
    """Return what a model generates after a prompt that already opens `<think>`."""
    if rest.startswith("<think>"):
        return rest.removeprefix("<think>").lstrip("\n")
    given = next((str(message.fields[key]) for key in _REASONING if key in message.fields), "")
    if given:
        return f"{given.strip()}\n</think>\n\n{rest.lstrip()}"
    thought, closed, _ = message.content.rpartition("</think>")
    if closed:
        return f"{thought.replace('<think>', '', 1).lstrip()}</think>{rest}"
    return f"\n</think>\n\n{rest.lstrip()}"


def _refuse_omitted_results(conversation: Conversation, prompt: str) -> None:
    for number, message in enumerate(conversation.messages):
        as_json = json.dumps(message.content, ensure_ascii=False)[1:-1]
        if message.role == "tool" and message.content.strip() not in prompt and as_json not in prompt:
            raise refusal(conversation, f"has a tool's result in messages[{number}] that the chat template omits")


def tools_of(conversation: Conversation) -> list[dict[str, Any]] | None:
    """Return the conversation's tools as an argument of a template."""
    return None if conversation.tools is None else list(conversation.tools)


def refusal(
    conversation: Conversation, what: str, value: str = "", *, allowed: str = "", suggestion: str = "", choice: str = ""
) -> InvalidDataError:
    """Return the error that refuses one row; `choice` is the key of `data_conf.rows` that refuses it, if any."""
    problem = Problem(conversation.where or "a conversation", what, value, allowed, suggestion)
    details = {"choice": choice} if choice else {}
    return InvalidDataError(f"{problem.where}: {what}.", hint="", problems=[problem], **details)
