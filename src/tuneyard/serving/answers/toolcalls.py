"""The syntax of a chat template's tool calls: learned from what it renders, and read from a model's answer.

Templates write calls in five ways: a JSON value with name and arguments; Python calls; a name followed by a JSON
object, by an object with quotes of its own, or by marked pairs. Which one, and with which marks around it, follows from
the rendering of known calls. A syntax is used only if it reads back every one of them; what no syntax reads is no call.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from tuneyard.serving.answers.readings import (
    Path,
    fits_json,
    gap,
    inside,
    json_at,
    json_values,
    loose_end,
    loose_start,
    path_to,
    pattern,
    shared,
)

Arguments = dict[str, Any]

FIRST, SECOND = "probe_first", "probe_second"
"""Names of the functions in the probes."""

_KEYS = ("key_one", "key_two")
_WORDS: Arguments = {"key_one": "word one", "key_two": "word two"}
_NUMBERS: Arguments = {"key_one": 7, "key_two": 8}
_IDENTIFIERS = ("probe1234", "probe5678")  # nine letters and digits: Mistral's templates accept no others


@dataclass(frozen=True, slots=True)
class ReadCall:
    """A tool call as a model wrote it.

    Attributes:
        name: The function's name.
        arguments: The arguments, as JSON can represent them.
        identifier: The id that the model wrote; empty where the template shows none.
        typed: Whether the arguments have their types; otherwise they are texts.
    """

    name: str
    arguments: Arguments
    identifier: str = ""
    typed: bool = True


Found = tuple[list[ReadCall], int]
"""Calls, and the position in the text after them."""

ReadOne = Callable[[str, re.Match[str]], "Found | None"]
"""Reads the call between two marks; None where there is none."""


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """A syntax of calls.

    Attributes:
        opener: The text, without spaces, that a block of calls begins with.
        marked: Whether nothing else begins with it, so that calls may follow content.
        closer: A text, without spaces, that a block of calls ends with, so that it can be read before the whole answer
            is complete; empty where there is none.
        start: The text before the first call's own part.
        between: The text between two calls; None where a block has only one.
        end: The text after the last call.
        read_one: Reads a call's own part.
    """

    opener: str
    marked: bool
    closer: str
    start: re.Pattern[str]
    between: re.Pattern[str] | None
    end: re.Pattern[str]
    read_one: ReadOne

    def read(self, text: str) -> Found | None:
        """Read the calls that a text begins with.

        Args:
            text: An answer from a position where calls may begin.

        Returns:
            The calls and their end; None where the text begins with none, or with a part of one.
        """
        opened = self.start.match(text)
        found = self.read_one(text, opened) if opened else None
        if found is None:
            return None
        calls, at = found
        while self.between and (opened := self.between.match(text, at)) and (found := self.read_one(text, opened)):
            calls, at = [*calls, *found[0]], found[1]
        ended = self.end.match(text, at)
        return (calls, ended.end()) if ended and all(fits_json(call.arguments) for call in calls) else None


def _syntax(
    read_one: ReadOne, *, opener: str, start: str, end: str, between: str = "", bracket: str = "", name: str = ""
) -> CallSyntax:
    """Make a syntax from the texts around calls.

    Args:
        read_one: Reads a call's own part.
        opener: The text before the first call, without its name.
        start: The text before the first call's own part, as a pattern.
        end: The text after the last call.
        between: The text between two calls; empty where a block has only one.
        bracket: The first character of a call itself.
        name: The name in `between`.
    """
    word, core = opener.split(maxsplit=1)[0] if opener.strip() else "", end.strip()
    closer = core.split()[-1] if core else ""
    # The first call's end may precede the second without a mark by which the second would be found.
    follows = between.strip().removeprefix(core).lstrip()
    findable = bool(word) and follows.startswith(word)
    return CallSyntax(
        word or bracket,
        bool(word),
        closer if findable or not between.strip().startswith(core) else "",
        re.compile(rf"\s*{start}"),
        re.compile(pattern(between, name)) if between else None,
        # Without any mark, the answer may hold nothing else.
        re.compile(rf"\s*{pattern(core)}" if core or word else r"\s*\Z"),
        read_one,
    )


Write = Callable[[Sequence[Mapping[str, Any]]], "str | None"]
"""Renders an answer of calls, without reasoning and stop token; None where the template refuses it."""


def probe_tools() -> list[dict[str, Any]]:
    """Return the tools of the probes, in OpenAI's form."""
    properties = {key: {"type": "string", "description": "A word."} for key in _KEYS}
    parameters = {"type": "object", "properties": properties, "required": []}
    return [
        {"type": "function", "function": {"name": name, "description": "A function.", "parameters": parameters}}
        for name in (FIRST, SECOND)
    ]


def probe_call(arguments: Arguments, *, second: bool = False) -> dict[str, Any]:
    """Return a call for a probe, in OpenAI's form."""
    function = {"name": SECOND if second else FIRST, "arguments": arguments}
    return {"id": _IDENTIFIERS[second], "type": "function", "function": function}


def word_call() -> dict[str, Any]:
    """Return the call that every template with tool calls can write."""
    return probe_call(_WORDS)


def learn_calls(write: Write) -> CallSyntax | None:
    """Learn a template's syntax of tool calls.

    Args:
        write: Renders answers that are calls.

    Returns:
        The syntax; None where the template writes no calls, or in a syntax that can't be read.
    """
    probes = {
        "one": [probe_call(_WORDS)],
        "two": [probe_call(_WORDS), probe_call(_WORDS, second=True)],
        "bare": [probe_call({})],
        "numbers": [probe_call(_NUMBERS)],
    }
    written = {name: text for name, calls in probes.items() if (text := write(calls)) is not None}
    one = written.get("one")
    if one is None or FIRST not in one:
        return None
    renderings = _Renderings(one, written.get("two"), written.get("bare"), written.get("numbers"))
    for learn in (_learn_json, _learn_python, _learn_object, _learn_quoted, _learn_pairs):
        syntax = learn(renderings)
        if syntax is not None and _reads_back(syntax, probes, written):
            return syntax
    return None


def _reads_back(
    syntax: CallSyntax, probes: Mapping[str, list[dict[str, Any]]], written: Mapping[str, str | None]
) -> bool:
    """Whether every rendering is read back as its calls; a template may leave out all calls but the first."""
    for name, calls in probes.items():
        text = written.get(name)
        if text is None:
            continue
        block = syntax.read(text)
        if block is None or text[block[1] :].strip():
            return False
        wanted = [call["function"] for call in calls if call["function"]["name"] in text]
        for call, function in zip_longest(block[0], wanted):
            if call is None or function is None or call.name != function["name"]:
                return False
            given = function["arguments"]
            if call.arguments != (given if call.typed else {key: str(value) for key, value in given.items()}):
                return False
    return True


@dataclass(frozen=True, slots=True)
class _Renderings:
    """A template's renderings: of one call, of two, of one without arguments, of one with numbers."""

    one: str
    two: str | None
    bare: str | None
    numbers: str | None


# A JSON value with name and arguments in it.


def _learn_json(renderings: _Renderings) -> CallSyntax | None:
    found = next(json_values(renderings.one, 0, holds=FIRST), None)
    if found is None:
        return None
    value, start, end = found
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    paths = [path_to(items[0], wanted) for wanted in (FIRST, _WORDS, _IDENTIFIERS[0])]
    if len(items) != 1 or paths[0] is None or paths[1] is None:
        return None
    pair = list(json_values(renderings.two or "", 0, holds="probe_"))
    between = (renderings.two or "")[pair[0][2] : pair[1][1]] if len(pair) == 2 else ""
    opener = renderings.one[:start].strip()
    return _syntax(
        _json_reader(paths[0], paths[1], paths[2], listed=isinstance(value, list)),
        opener=opener,
        start=rf"{pattern(opener)}\s*",
        end=renderings.one[end:],
        between=between,
        bracket=renderings.one[start],
    )


def _json_reader(name: Path, arguments: Path, identifier: Path | None, *, listed: bool) -> ReadOne:
    def call(value: object) -> ReadCall | None:
        called, given = inside(value, name), inside(value, arguments)
        if not isinstance(called, str) or not called or not isinstance(given, dict):
            return None
        own = inside(value, identifier) if identifier else None
        return ReadCall(called, cast("Arguments", given), own if isinstance(own, str) else "")

    def read(text: str, opened: re.Match[str]) -> Found | None:
        value, at = json_at(text, opened.end())
        items = cast("list[Any]", value) if isinstance(value, list) else [value]
        calls = [one for item in items if (one := call(item)) is not None]
        whole = bool(calls) and len(calls) == len(items) and isinstance(value, list) == listed
        return (calls, at) if whole else None

    return read


# Calls as Python writes them: one, a list of them, or one on each line.


def _learn_python(renderings: _Renderings) -> CallSyntax | None:
    one = renderings.one
    found = re.search(rf"\[?\s*{FIRST}\(", one)
    if not found:
        return None
    end = one.rfind(")") + 1
    end += one[end : end + 1] == "]"
    opener, closer, bracket = one[: found.start()].strip(), one[end:].strip(), found.group()[0]
    if not opener and bracket != "[":
        return None

    def read(text: str, opened: re.Match[str]) -> Found | None:
        until = text.find(closer, opened.end()) if closer else len(text)
        calls = _python_calls(text[opened.end() : until]) if until >= 0 else None
        return (calls, until) if calls else None

    return _syntax(read, opener=opener, start=rf"{pattern(opener)}\s*", end=closer, bracket=bracket)


def _python_calls(source: str) -> list[ReadCall] | None:
    try:
        statements = ast.parse(source.strip()).body
        values = [statement.value for statement in statements if isinstance(statement, ast.Expr)]
        nodes = [node for value in values for node in (value.elts if isinstance(value, ast.List) else [value])]
        return [_python_call(node) for node in nodes] if len(values) == len(statements) else None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _python_call(node: ast.expr) -> ReadCall:
    if not isinstance(node, ast.Call) or node.args or any(word.arg is None for word in node.keywords):
        raise ValueError("not a call with named arguments")
    arguments = {str(word.arg): ast.literal_eval(_Literals().visit(word.value)) for word in node.keywords}
    return ReadCall(ast.unparse(node.func), arguments)


class _Literals(ast.NodeTransformer):
    """Replaces JSON's literals by Python's: models mix them."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        words: dict[str, Any] = {"true": True, "false": False, "null": None}
        return ast.copy_location(ast.Constant(words[node.id]), node) if node.id in words else node


# A name, and then its arguments.

Reader = Callable[[str, int], "tuple[Arguments, int] | None"]
"""Reads the arguments at a position of a text; None where there are none."""


def _named(renderings: _Renderings, at: int, end: int, reader: Reader, *, typed: bool = True) -> CallSyntax | None:
    """Make a syntax by the position of the arguments in the rendering of one call."""
    before = renderings.one[:at]
    if FIRST not in before:
        return None
    between = ""
    if renderings.two is not None and renderings.two.startswith(before):
        place = renderings.two.rfind(SECOND)
        read = reader(renderings.two, at)
        if read is not None and place >= read[1]:
            # The same text follows the second name as the first.
            between = renderings.two[read[1] : place] + SECOND + before[before.rfind(FIRST) + len(FIRST) :]
    opener = before[: before.find(FIRST)].strip()
    if not opener:
        return None

    def read_named(text: str, opened: re.Match[str]) -> Found | None:
        found = reader(text, opened.end())
        return None if found is None else ([ReadCall(opened["name"], found[0], typed=typed)], found[1])

    start, closing = pattern(before.lstrip(), FIRST), renderings.one[end:]
    return _syntax(read_named, opener=opener, start=start, end=closing, between=between, name=SECOND)


def _learn_object(renderings: _Renderings) -> CallSyntax | None:
    place = renderings.one.rfind(FIRST)
    for value, start, end in json_values(renderings.one, place, holds=_KEYS[0]):
        if value == _WORDS:
            return _named(renderings, start, end, _object_at)
    return None


def _object_at(text: str, at: int) -> tuple[Arguments, int] | None:
    value, end = json_at(text, at)
    return (cast("Arguments", value), end) if isinstance(value, dict) else None


def _learn_quoted(renderings: _Renderings) -> CallSyntax | None:
    """Learn objects with unquoted keys and quotes of their own around texts, as Gemma 4 writes them."""
    quotes = _quotes(renderings)
    start = renderings.one.find("{", renderings.one.rfind(FIRST))
    end = renderings.one.rfind("}") + 1
    if quotes is None or start < 0 or end <= start:
        return None
    closer = renderings.one[end:].strip()
    if not closer:
        return None
    opening, closing = map(re.escape, quotes)
    text_or_key = re.compile(
        rf"{opening}(?P<text>.*?){closing}|(?<=[{{,])\s*(?P<key>[\w.-]+)\s*(?=:)|\bNone\b", re.DOTALL
    )

    def as_json(found: re.Match[str]) -> str:
        return json.dumps(found["text"] if found["key"] is None else found["key"])

    def read(text: str, at: int) -> tuple[Arguments, int] | None:
        until = text.find(closer, at)
        if until < 0:
            return None
        written = text_or_key.sub(as_json, text[at:until].rstrip())
        value, end = json_at(written, 0)
        whole = isinstance(value, dict) and end == len(written)
        return (cast("Arguments", value), until) if whole else None

    return _named(renderings, start, end, read)


def _quotes(renderings: _Renderings) -> tuple[str, str] | None:
    """Find the quotes: what surrounds a text but not a number."""
    if renderings.numbers is None:
        return None
    words, numbers = renderings.one, renderings.numbers
    key, word, other = _KEYS[0], _WORDS[_KEYS[0]], _KEYS[1]
    before, bare_before = gap(words, key, word), gap(numbers, key, "7")
    after, bare_after = gap(words, word, other), gap(numbers, "7", other)
    if before is None or bare_before is None or after is None or bare_after is None:
        return None
    opening, closing = before.removeprefix(bare_before), after.removesuffix(bare_after)
    return (opening, closing) if opening and closing and opening != before else None


def _learn_pairs(renderings: _Renderings) -> CallSyntax | None:
    """Learn pairs of a key and a text between marks, as the XML of Qwen 3.5 and GLM."""
    one, bare = renderings.one, renderings.bare
    place = one.rfind(FIRST, 0, one.find(_KEYS[0])) + len(FIRST)
    if bare is None or place < len(FIRST) or one[:place] != bare[:place]:
        return None
    first, middle = gap(one[place:], "", _KEYS[0]), gap(one, _KEYS[0], _WORDS[_KEYS[0]])
    closing, second = gap(one, _WORDS[_KEYS[0]], _KEYS[1]), gap(one, _KEYS[1], _WORDS[_KEYS[1]])
    if first is None or middle is None or closing is None or middle != second or not middle.strip():
        return None
    tail, empty = one[one.find(_WORDS[_KEYS[1]]) + len(_WORDS[_KEYS[1]]) :], bare[place:]
    head, close = shared(first, empty), shared(closing, tail)
    opening, end = first[len(head) :], empty[len(head) :]
    if closing[len(close) :] != opening or tail[len(close) :] != end or not (opening and end and close.strip()):
        return None
    pair = re.compile(
        rf"{pattern(opening)}\s*(?P<key>[^\s<>\"]+?)\s*{loose_end(middle)}(?P<value>.*?){loose_start(close)}",
        re.DOTALL,
    )

    def read(text: str, at: int) -> tuple[Arguments, int] | None:
        arguments: Arguments = {}
        while found := pair.match(text, at):
            arguments[found["key"]] = found["value"]
            at = found.end()
        return arguments, at

    return _named(renderings, place + len(head), len(one) - len(end), read, typed=False)
