"""What a chat template makes of a conversation, as a server uses it: the prompt before each answer, and the answer.

The server's view decides. Before an answer it renders the messages so far with a generation prompt; what the template
puts after that once the answer is there is what the model has to write. Nothing is assumed of earlier turns: a template
may leave their reasoning out, end them otherwise, or show the tools with the last question only. Text only; `encoding`
makes token ids of it.
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
        prompt: All that a server gives the model before it.
        said: What follows the prompt: the answer, what ends it, and what the template may put after that.
    """

    number: int
    prompt: str
    said: str


def template_messages(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as servers hand them to a chat template.

    As vLLM does: no content is an empty one, arguments of tool calls that are JSON text become what they say (templates
    iterate them), and reasoning stands under both of its names. Our own server and the training both call this.

    Args:
        messages: In OpenAI's form.

    Raises:
        ValueError: Where the arguments of a tool call are no JSON.
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
        tokenizer: As `load_tokenizer` gives it.
        stops: The texts of the tokens the server stops at.
        process: What renders; one that all share where None.
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
            InvalidDataError: With one problem, where the template refuses the conversation or leaves a part of it out,
                or renders it so that an answer can't be told from its prompt.
        """
        if "messages[].tool_calls" in self.unrendered(conversation):
            raise refusal(conversation, "has tool_calls, which the chat template does not render")
        cuts = [cut for number in answers for cut in ((number, True), (number + 1, False))]
        self._known = (conversation, self._rendered(conversation, cuts))
        turns = [self._turn(conversation, number) for number in answers]
        _refuse_untold_results(conversation, turns[-1].prompt)
        return turns

    def unrendered(self, conversation: Conversation) -> list[str]:
        """Return the names of fields that the conversation has, but its chat template never mentions."""
        source = self._source(conversation)
        names = ["tools"] if conversation.tools and "tools" not in source else []
        used = dict.fromkeys(key for message in conversation.messages for key in message.fields)
        return names + [f"messages[].{key}" for key in used if not self._mentions(source, key)]

    def _mentions(self, source: str, key: str) -> bool:
        # a template whose generation prompt opens <think> has reasoning written after it, whatever its field is called
        other = {"reasoning": "reasoning_content", "reasoning_content": "reasoning"}.get(key, key)
        opens = key in _REASONING and not any(name in source for name in _REASONING) and "<think>" in source
        return key in source or other in source or opens

    def _source(self, conversation: Conversation) -> str:
        return self._tokenizer.get_chat_template(None, tools_of(conversation))

    def _turn(self, conversation: Conversation, number: int) -> Turn:
        prompt = self._render(conversation, number, add_generation_prompt=True)
        whole = self._render(conversation, number + 1)
        said = self._after(conversation, number, prompt, whole)
        opened = _OPENED.search(prompt)
        if said is None and opened:
            said = self._after(conversation, number, prompt[: opened.start()], whole)
            said = said if said is None else _reasoned(conversation.messages[number], said)
        if said is None:
            raise refusal(
                conversation,
                f"renders differently up to messages[{number}] once the answer is there, so what a model has to write "
                "after a server's prompt can't be told",
                suggestion="chat_template_name chat-ml",
            )
        if not any(stop in said for stop in self._stops):
            said += self._begins_next_turn(conversation, number, said)
        return Turn(number, prompt, said)

    def _after(self, conversation: Conversation, number: int, prompt: str, whole: str) -> str | None:
        """Return what follows the prompt in `whole`; None where the prompt is not in it."""
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if number < 2:
            return None
        # What came before may be rendered otherwise (gpt-oss drops the thoughts before a tool call once the final
        # answer is there); what the last message before the answer adds has to be there still.
        before = self._render(conversation, number - 1)
        added = prompt[_shared(before, prompt) :]
        place = whole.rfind(added) if added.strip() else -1
        return None if place < 0 else whole[place + len(added) :]

    def _begins_next_turn(self, conversation: Conversation, number: int, said: str) -> str:
        """Return the stop token that begins the next turn, where nothing else ends an answer (GLM); or nothing."""
        role = "tool" if conversation.messages[number].fields.get("tool_calls") else "user"
        asked = Conversation(
            (*conversation.messages[: number + 1], Message(role, _PROBE)), conversation.tools, conversation.where
        )
        try:
            text = self._render(asked, number + 2)
        except InvalidDataError:
            return ""
        before = text[: text.rfind(_PROBE)]
        places = {stop: before.rfind(stop) for stop in self._stops}
        stop = max(places, key=lambda name: places[name], default="")
        return stop if stop and places[stop] > 0 and before[: places[stop]].endswith(said[-8:]) else ""

    def _render(self, conversation: Conversation, number: int, *, add_generation_prompt: bool = False) -> str:
        cut = (number, add_generation_prompt)
        of, known = self._known
        text = known[cut] if of is conversation and cut in known else self._rendered(conversation, [cut])[cut]
        if isinstance(text, str):
            return text
        roles = ", ".join(message.role for message in conversation.messages)
        told = shown(str(text), longest=200)
        raise refusal(conversation, f"is refused by the chat template: {told}", f"roles {roles}") from text

    def _rendered(
        self, conversation: Conversation, cuts: list[tuple[int, bool]]
    ) -> dict[tuple[int, bool], str | TemplateError]:
        """Render beginnings of a conversation. A template that took too much once is not run for every other row."""
        from tuneyard.data.bounded import TemplateLimitError, template_arguments

        if self._ended is not None:
            return dict.fromkeys(cuts, self._ended)
        longest = max(number for number, _ in cuts)
        try:
            messages = template_messages(message.as_dict() for message in conversation.messages[:longest])
        except json.JSONDecodeError as error:
            raise refusal(conversation, "has a tool call whose arguments are no JSON", str(error)) from error
        asked = template_arguments(self._tokenizer, tools_of(conversation))
        texts = self._process.render(messages, cuts, **asked)
        self._ended = next((text for text in texts if isinstance(text, TemplateLimitError)), None)
        return dict(zip(cuts, texts, strict=True))


def check_said(conversation: Conversation, turn: Turn, answer: str, unrendered: Iterable[str]) -> None:
    """Refuse an answer that lacks a part of its message.

    Args:
        conversation: The row.
        turn: The answer in question.
        answer: Its text up to and with the token the server stops at.
        unrendered: Fields already known to be read by nothing; they are told of elsewhere.

    Raises:
        InvalidDataError: Naming the part that the chat template leaves out.
    """
    message = conversation.messages[turn.number]
    fields = [key for key in _REASONING if key in message.fields and f"messages[].{key}" not in unrendered]
    parts = {"content": message.content, **{key: str(message.fields[key]) for key in fields}}
    for name, text in parts.items():
        if not all(piece.strip() in answer for piece in _THINK.split(text)):
            raise refusal(
                conversation,
                f"has messages[{turn.number}].{name} that the chat template leaves out of the answer",
                shown(text),
                suggestion="leave it out, or chat_template_name chat-ml" if name != "content" else "",
            )
    names = [str(call.get("function", call).get("name")) for call in message.fields.get("tool_calls", ())]
    missing = next((name for name in names if answer.count(name) < names.count(name)), None)
    if missing is not None:
        raise refusal(
            conversation, f"has tool_calls in messages[{turn.number}] that the chat template does not render", missing
        )


def _shared(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _reasoned(message: Message, said: str) -> str:
    """Return what a model writes after a prompt that has opened `<think>` already."""
    if said.startswith("<think>"):
        return said.removeprefix("<think>").lstrip("\n")
    given = next((str(message.fields[key]) for key in _REASONING if key in message.fields), "")
    if given:
        return f"{given.strip()}\n</think>\n\n{said.lstrip()}"
    thought, closed, _ = message.content.rpartition("</think>")
    if closed:
        return f"{thought.replace('<think>', '', 1).lstrip()}</think>{said}"
    return f"\n</think>\n\n{said.lstrip()}"


def _refuse_untold_results(conversation: Conversation, prompt: str) -> None:
    for number, message in enumerate(conversation.messages):
        as_json = json.dumps(message.content, ensure_ascii=False)[1:-1]
        if message.role == "tool" and message.content.strip() not in prompt and as_json not in prompt:
            raise refusal(conversation, f"has a tool's result in messages[{number}] that the chat template leaves out")


def tools_of(conversation: Conversation) -> list[dict[str, Any]] | None:
    """Return the conversation's tools as a template takes them."""
    return None if conversation.tools is None else list(conversation.tools)


def refusal(
    conversation: Conversation, what: str, value: str = "", *, allowed: str = "", suggestion: str = "", choice: str = ""
) -> InvalidDataError:
    """Make the error that refuses one row; `choice` is the key of `data_conf.rows` that asks for it, if one does."""
    problem = Problem(conversation.where or "a conversation", what, value, allowed, suggestion)
    details = {"choice": choice} if choice else {}
    return InvalidDataError(f"{problem.where}: {what}.", hint="", problems=[problem], **details)
