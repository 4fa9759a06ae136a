"""Parsing of an answer while it is generated, into reasoning, content and tool calls, by the form of its chat template.

What does not parse is content, unchanged: a tool call that is not JSON, reasoning that never ends, a mark that the
template does not have. So nothing of an answer is lost, and the parts of a stream joined are the whole answer. The
price is that reasoning and tool calls are returned when they are complete: a stream can't take anything back.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from tuneyard.serving.answers.decoding import SpecialTokens, without_special
from tuneyard.serving.answers.forms import AnswerForm
from tuneyard.serving.answers.toolcalls import CallSyntax, ReadCall

_ID_LENGTH = 9  # Mistral's templates refuse ids of any other length, and all others accept any


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """The reasoning before an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call.

    Attributes:
        identifier: Its id in the conversation.
        name: The function's name.
        arguments: The arguments, a JSON object as text.
    """

    identifier: str
    name: str
    arguments: str


Part = Content | Reasoning | ToolCall


class AnswerParser:
    """Parses one answer.

    Args:
        form: The form of answers of its chat template.
        special: The tokenizer's special tokens, with which the form was learned.
        within_reasoning: Whether the prompt opens reasoning.
        tools: The tools that the model may call, in OpenAI's form; None where a call is content.
        parallel: Whether an answer may have several calls.
    """

    def __init__(
        self,
        form: AnswerForm,
        special: SpecialTokens,
        *,
        within_reasoning: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        parallel: bool = True,
    ) -> None:
        self.done = False
        """Whether the answer is complete, even if the model would continue."""
        self._form, self._special, self._parallel = form, special, parallel
        functions = [cast("Mapping[str, Any]", tool["function"]) for tool in tools or ()]
        self._tools = {str(function["name"]): function.get("parameters") or {} for function in functions}
        self._calls: CallSyntax | None = form.calls if tools else None
        self._text = ""
        self._at = 0  # where in the text the current part begins
        self._searched = 0  # up to where the text was searched for the end of that part
        self._space = ""  # the rest of the template's own space that may still follow
        self._spelled = False  # whether special tokens are spelled out, since a part did not parse
        self._state: Callable[[bool], Iterator[Part]] = self._begin
        if within_reasoning:
            self._state = self._reason
        self._may_reason = not within_reasoning and form.reasoning is not None
        self._moved = False

    def feed(self, text: str) -> list[Part]:
        """Add text.

        Args:
            text: Decoded text, with special tokens as their characters.

        Returns:
            The parts that can no longer change.
        """
        self._text += text
        return self._run(final=False)

    def finish(self) -> list[Part]:
        """Return the parts held back, at the end of the answer."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        self._moved = True
        while self._moved and not self.done:
            self._moved = False
            parts += self._state(final)
        return parts

    def _enter(self, state: Callable[[bool], Iterator[Part]], text: str, at: int = 0) -> None:
        self._state, self._text, self._at, self._moved, self._searched = state, text, at, True, at

    def _find(self, mark: str) -> int:
        """Find a mark in the text of a part that was not searched before, so that a long part is read only once."""
        start = max(self._at, self._searched - len(mark) + 1)
        self._searched = len(self._text)
        return self._text.find(mark, start)

    def _begin(self, final: bool) -> Iterator[Part]:
        """Decide at the beginning of a part which kind it is."""
        self._drop_space()
        if not self._text:
            return
        begun = self._text.lstrip()
        at = len(self._text) - len(begun)
        openings = dict(self._openings())
        for mark in sorted(openings, key=len, reverse=True):
            if begun.startswith(mark):
                self._space = ""
                openings[mark](at, mark)
                return
            if not final and mark.startswith(begun):
                return
        self._space = ""
        self._enter(self._content, self._text)
        yield from ()

    def _drop_space(self) -> None:
        """Drop the template's own space at the beginning of a part, and no more."""
        while self._space and self._text[:1] == self._space[0]:
            self._text, self._space = self._text[1:], self._space[1:]

    def _openings(self) -> Iterator[tuple[str, Callable[[int, str], None]]]:
        """Yield the marks that a part may begin with, each with a handler of its place and the mark."""
        if self._may_reason and self._form.reasoning:
            yield (
                self._form.reasoning.opening.core,
                lambda at, mark: self._enter(self._reason, self._text, at + len(mark)),
            )
        if self._form.content.opening.core:
            yield self._form.content.opening.core, self._open_content
        if self._calls:
            yield self._calls.opener, lambda at, mark: self._enter(self._call, self._text, at)

    def _open_content(self, at: int, mark: str) -> None:
        self._space = self._form.content.opening.after
        self._may_reason = False
        self._enter(self._begin_content, self._text[at + len(mark) :])

    def _begin_content(self, final: bool) -> Iterator[Part]:
        self._drop_space()
        if self._text:
            self._space = ""
            self._enter(self._content, self._text)
        yield from ()

    def _reason(self, final: bool) -> Iterator[Part]:
        """Wait within reasoning for its end."""
        assert self._form.reasoning is not None
        opening, closing = self._form.reasoning.opening, self._form.reasoning.closing
        self._may_reason = False
        end = self._find(closing.core)
        if end < 0:
            if final:
                self._spelled = True
                yield from self._shown(self._text[: self._at])
                self._enter(self._content, self._text[self._at :])
            return
        reasoning = self._text[self._at + _common_prefix(self._text[self._at : end], opening.after) : end]
        reasoning = reasoning[: len(reasoning) - _common_suffix(reasoning, closing.before)]
        if reasoning.strip():
            yield Reasoning(without_special(reasoning))
        self._space = closing.after
        self._enter(self._begin, self._text[end + len(closing.core) :])

    def _content(self, final: bool) -> Iterator[Part]:
        """Pass content on, and watch for the marks that may follow it."""
        text = self._text
        watched = list(self._watched())
        found = [(place, mark, space) for mark, space in watched if (place := text.find(mark)) >= 0]
        if found:
            place, mark, space = min(found)
            kept = place - _common_suffix(text[:place], space)
            yield from self._shown(text[:kept])
            if self._calls and mark == self._calls.opener:
                self._enter(self._call, text[kept:], place - kept)
            else:
                self._space = self._form.content.closing.after
                self._enter(self._begin, text[place + len(mark) :])
            return
        held = 0 if final else max((_may_begin(text, mark, space) for mark, space in watched), default=0)
        self._text = text[len(text) - held :]
        yield from self._shown(text[: len(text) - held])

    def _watched(self) -> Iterator[tuple[str, str]]:
        """Yield the marks that may follow content, each with the space that the template puts before it."""
        if self._form.content.closing.core:
            yield self._form.content.closing.core, self._form.content.closing.before
        # Where content has an opening mark, a call is a part of its own.
        if self._calls and self._calls.marked and not self._form.content.opening.core:
            yield self._calls.opener, self._form.calls_gap

    def _call(self, final: bool) -> Iterator[Part]:
        """Wait within tool calls until they are complete."""
        assert self._calls is not None
        ended = bool(self._calls.closer) and self._find(self._calls.closer) >= 0
        block = self._calls.read(self._text[self._at :]) if final or ended else None
        calls = block[0] if block else []
        if block and (self._calls.marked or all(call.name in self._tools for call in calls)):
            self.done = not self._parallel
            yield from map(self._tool_call, calls if self._parallel else calls[:1])
            self._enter(self._after_calls, self._text[self._at + block[1] :])
        elif final:
            self._spelled = True
            past = self._at + len(self._calls.opener)
            yield from self._shown(self._text[:past])
            self._enter(self._content, self._text[past:])

    def _after_calls(self, final: bool) -> Iterator[Part]:
        assert self._calls is not None
        follows = self._text.lstrip()
        if self._calls.marked and follows.startswith(self._calls.opener):
            self._enter(self._call, self._text, len(self._text) - len(follows))
        elif follows and (final or not self._calls.opener.startswith(follows)):
            self._enter(self._content, self._text)
        yield from ()

    def _shown(self, text: str) -> Iterator[Part]:
        shown = self._special.spell(text) if self._spelled else without_special(text)
        if shown:
            yield Content(shown)

    def _tool_call(self, call: ReadCall) -> ToolCall:
        arguments = call.arguments if call.typed else typed_arguments(call.arguments, self._tools.get(call.name, {}))
        written = without_special(json.dumps(arguments, ensure_ascii=False))
        return ToolCall(call.identifier or uuid.uuid4().hex[:_ID_LENGTH], without_special(call.name), written)


def typed_arguments(arguments: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Convert arguments from text to the types of their schema.

    Args:
        arguments: Texts; some templates write every argument as text.
        parameters: The function's JSON schema.

    Returns:
        The arguments; one that does not parse as its type stays text.
    """
    properties = cast("Mapping[str, Any]", parameters.get("properties") or {})
    return {key: _typed(str(text), properties.get(key), parameters) for key, text in arguments.items()}


_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": list,
}
_PYTHON_WORDS = {"True": True, "False": False, "None": None}


def _typed(text: str, schema: object, root: Mapping[str, Any]) -> Any:
    kinds = set(_kinds(schema, root))
    if not kinds or "string" in kinds:
        return text
    try:
        value: object = _PYTHON_WORDS[text.strip()] if text.strip() in _PYTHON_WORDS else json.loads(text)
    except (ValueError, RecursionError):
        return text
    fits = any(isinstance(value, _KINDS[kind]) for kind in kinds if kind in _KINDS)
    return value if fits and (not isinstance(value, bool) or "boolean" in kinds) else text


def _kinds(schema: object, root: Mapping[str, Any], depth: int = 8) -> Iterator[str]:
    """Yield the names of the types that a JSON schema allows."""
    if not isinstance(schema, dict) or not depth:
        return
    fields = cast("dict[str, Any]", schema)
    named: Any = fields.get("type")
    yield from (str(kind) for kind in cast("list[Any]", named if isinstance(named, list) else [named]) if kind)
    for one in (*(fields.get("anyOf") or ()), *(fields.get("oneOf") or ()), *(fields.get("allOf") or ())):
        yield from _kinds(one, root, depth - 1)
    if isinstance(fields.get("$ref"), str):
        target: Any = root
        for step in fields["$ref"].removeprefix("#/").split("/"):
            target = cast("dict[str, Any]", target).get(step) if isinstance(target, dict) else None
        yield from _kinds(target, root, depth - 1)


def _common_prefix(text: str, space: str) -> int:
    """Return the length of the common prefix of a text and the template's own space."""
    pairs = enumerate(zip(text, space, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(text), len(space)))


def _common_suffix(text: str, space: str) -> int:
    return _common_prefix(text[::-1], space[::-1])


def _may_begin(text: str, mark: str, space: str) -> int:
    """Return how many characters at a text's end may belong to a mark that is not complete yet."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    begun = next((size for size in sizes if mark.startswith(text[-size:])), 0)
    before = text[: len(text) - begun][-len(space) :] if space else ""
    return begun + len(before) - len(before.rstrip())
