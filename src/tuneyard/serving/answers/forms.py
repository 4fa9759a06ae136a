"""The form of a model's answers: the marks that its chat template puts around reasoning, content and tool calls.

Learned from the template alone, by rendering known answers and comparing; never from the name of an architecture. A
template that renders no reasoning has no form for it, and all that a model writes is content. `parsing` reads answers
by a form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuneyard.serving.answers.toolcalls import FIRST, CallSyntax, learn_calls, probe_tools, word_call

Render = Callable[[Sequence[Mapping[str, Any]], "list[dict[str, Any]] | None", bool], "str | None"]
"""Renders messages and tools, with or without a generation prompt; None where the template refuses them."""

_QUESTION = {"role": "user", "content": "What comes next?"}
_REASON, _CONTENT = "PROBE reasoning", "PROBE content"
_REASONING = {"reasoning_content": _REASON, "reasoning": _REASON, "thinking": _REASON}
_OPENED = re.compile(r"(?:<(?P<tag>[^<>/\s]+)>|\[(?P<word>[A-Z_]+)\])\s*\Z")
_CLOSING = re.compile(r"</([A-Za-z][\w:.-]*)>|\[/([A-Z_]+)\]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A text that marks the beginning or end of a part.

    Attributes:
        before: The space that the template puts before it.
        core: The mark itself.
        after: The space that the template puts after it.
    """

    before: str
    core: str
    after: str

    @classmethod
    def of(cls, text: str) -> Mark:
        """Split a text into a mark and the space around it."""
        core = text.strip()
        start = text.find(core)
        return cls(text[:start], core, text[start + len(core) :])


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks around a part of an answer; `opening` is empty where nothing precedes the part."""

    opening: Mark
    closing: Mark


_NO_MARKS = Marks(Mark("", "", ""), Mark("", "", ""))


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What a chat template puts around the parts of an answer.

    Attributes:
        reasoning: The marks around reasoning; None where the template has none.
        content: The marks around content, stop tokens aside; empty in most templates.
        calls: The syntax of tool calls; None where the template writes none.
        calls_gap: The space between content and tool calls.
    """

    reasoning: Marks | None = None
    content: Marks = _NO_MARKS
    calls: CallSyntax | None = None
    calls_gap: str = ""

    def begins_reasoning(self, prompt: str) -> bool:
        """Whether the prompt opens reasoning, so that the answer begins within it."""
        return self.reasoning is not None and prompt.rstrip().endswith(self.reasoning.opening.core)


def learn_form(
    render: Render, mark: Callable[[str], str], source: str, stops: Sequence[str], *, with_tools: bool
) -> AnswerForm:
    """Learn the form of answers from a chat template.

    Args:
        render: Renders with the template.
        mark: Replaces special tokens as `SpecialTokens.mark` does; the form's texts have them replaced.
        source: The template's source.
        stops: The texts that end an answer.
        with_tools: Whether the model may call tools.

    Returns:
        The form.
    """
    probe = _Probe(render, mark, source, stops, probe_tools() if with_tools else None)
    reasoning = probe.rendered_reasoning() or probe.opened_reasoning() or probe.removed_reasoning()
    content = probe.around_content(reasoning)
    opening = content.opening.core
    if reasoning and opening and reasoning.closing.core.endswith(opening):
        # The end of the reasoning's closing mark opens the content; a tool call may take its place.
        core = reasoning.closing.core.removesuffix(opening)
        reasoning = Marks(reasoning.opening, Mark.of(reasoning.closing.before + core))
    calls = learn_calls(lambda calls: probe.block(calls, reasoning))
    if calls is None:
        return AnswerForm(reasoning, content)
    return AnswerForm(reasoning or probe.reasoning_before(calls), content, calls, probe.gap_before(calls))


class _Probe:
    """Known answers, as a template renders them after a question."""

    def __init__(
        self,
        render: Render,
        mark: Callable[[str], str],
        source: str,
        stops: Sequence[str],
        tools: list[dict[str, Any]] | None,
    ) -> None:
        self._render, self._mark, self._source, self._tools = render, mark, source, tools
        self._stops = tuple(filter(None, stops))
        prompt = render([_QUESTION], tools, True) or ""
        self._starts = [prompt]
        self._opened: tuple[str, str] | None = None
        tag = _OPENED.search(prompt)
        closing = "" if tag is None else f"</{tag['tag']}>" if tag["tag"] else f"[/{tag['word']}]"
        if tag and closing in source:
            self._opened = tag.group().strip(), closing
            # An answer without reasoning may be rendered without the mark that the prompt opens.
            self._starts.append(prompt[: tag.start()])

    def answer(self, **fields: Any) -> str | None:
        """Return the text that a model writes after the prompt for a message with these fields."""
        whole = self._render([_QUESTION, {"role": "assistant", "content": "", **fields}], self._tools, False)
        if whole is None:
            return None
        answer = next((whole[len(start) :] for start in self._starts if whole.startswith(start)), None)
        if answer is None:
            return None
        ends = [place for stop in self._stops if (place := answer.find(stop)) >= 0]
        return self._mark(answer[: min(ends, default=len(answer))])

    def rendered_reasoning(self) -> Marks | None:
        """Find the marks around reasoning that the template renders before content."""
        return self._marks(self.answer(content=_CONTENT, **_REASONING), _CONTENT)

    def reasoning_before(self, calls: CallSyntax) -> Marks | None:
        """Find the marks around reasoning that the template renders before tool calls alone."""
        answer = self.answer(tool_calls=[word_call()], **_REASONING)
        return self._marks(answer, calls.opener) if calls.marked else None

    def opened_reasoning(self) -> Marks | None:
        """Find the marks of reasoning that the prompt opens, where the template renders no given reasoning."""
        return self._around_lines(*self._opened) if self._opened else None

    def removed_reasoning(self) -> Marks | None:
        """Find the marks of reasoning that the template removes from content."""
        for tag, word in dict.fromkeys(_CLOSING.findall(self._source)):
            opening, closing = (f"<{tag}>", f"</{tag}>") if tag else (f"[{word}]", f"[/{word}]")
            answer = self.answer(content=f"{opening}\n{_REASON}\n{closing}\n\n{_CONTENT}")
            if answer is not None and _REASON not in answer and _CONTENT in answer:
                return self._around_lines(opening, closing)
        return None

    def around_content(self, reasoning: Marks | None) -> Marks:
        """Find the marks around content without reasoning; space alone is no mark."""
        before, found, after = (self.answer(content=_CONTENT) or "").partition(_CONTENT)
        if not found:
            return _NO_MARKS
        if reasoning:
            opening, closing = re.escape(reasoning.opening.core), re.escape(reasoning.closing.core)
            before = re.sub(rf"\A\s*(?:{opening})?\s*{closing}", "", before)
        opening = Mark.of(before) if before.strip() else _NO_MARKS.opening
        return Marks(opening, Mark.of(after) if after.strip() else _NO_MARKS.closing)

    def block(self, calls: Sequence[Mapping[str, Any]], reasoning: Marks | None) -> str | None:
        """Return the text that a model writes for tool calls, without reasoning."""
        answer = self.answer(tool_calls=calls)
        if answer is None and reasoning:
            answer = self.answer(tool_calls=calls, **_REASONING)
        if answer is None or reasoning is None:
            return answer
        before, found, after = answer.partition(reasoning.closing.core)
        return after if found and FIRST not in before else answer

    def gap_before(self, calls: CallSyntax) -> str:
        """Return the space between content and tool calls."""
        answer = (self.answer(content=_CONTENT, tool_calls=[word_call()]) or "").partition(_CONTENT)[2]
        gap, found, _ = answer.partition(calls.opener)
        return gap if calls.marked and found and not gap.strip() else ""

    def _marks(self, answer: str | None, following: str) -> Marks | None:
        before, found, after = (answer or "").partition(_REASON)
        between, followed, _ = after.partition(following)
        if not found or not followed or not between.strip():
            return None
        opening = Mark.of(before)
        if not opening.core and self._opened:
            opening = Mark("", self._mark(self._opened[0]), "\n")
        return Marks(opening, Mark.of(between))

    def _around_lines(self, opening: str, closing: str) -> Marks:
        """Return marks on lines of their own, as training writes them (`data.rendering`)."""
        return Marks(Mark("", self._mark(opening), "\n"), Mark("\n", self._mark(closing), "\n\n"))
