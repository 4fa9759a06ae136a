"""A single question: standard output gets the answer and nothing else, so that it can be piped.

The note that an answer was cut is written to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tuneyard.chatting.client import chat_stream, cut_note
from tuneyard.chatting.comparison import Comparison, watch_comparison
from tuneyard.chatting.conversation import Conversation
from tuneyard.chatting.display import write
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console


def read_question(argument: str | None, stdin: TextIO | None = None) -> str | None:
    """Return the question from the command line, or from standard input where that is a file or a pipe.

    Args:
        argument: The question of the command line; None where there is none.
        stdin: The other source; the process's standard input where None.

    Returns:
        The question, or None where standard input is a terminal.

    Raises:
        UsageError: The question is empty.
    """
    source = stdin or sys.stdin
    if argument is None and source.isatty():
        return None
    question = (argument if argument is not None else source.read()).strip()
    if not question:
        raise UsageError("The question is empty.", hint='Add a question: tuneyard chat NAME "What is a manifest?"')
    return question


def run_once(
    endpoint: Endpoint,
    question: str,
    models: Sequence[str] | None = None,
    *,
    compare: bool = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    console: Console | None = None,
    notes: Console | None = None,
    quiet: bool = False,
) -> Answers:
    """Send one question and write the answer as it arrives; with `compare`, two answers.

    Args:
        endpoint: The server.
        question: The question.
        models: The models; the endpoint's first, or base and tuned model, where None.
        compare: Whether two models answer.
        system: A system message.
        max_tokens: The most tokens of an answer.
        temperature: 0 for the same answer every time.
        console: The console of the answer; standard output where None.
        notes: The console of the note that an answer was cut; standard error where None.
        quiet: Whether to write nothing and only return the answers (for `--json`).

    Returns:
        The answers by the model's name, the base model's first, and which of them were cut.

    Raises:
        NotFoundError: The server lacks a model, or has no two to compare; and everything that `ask` raises.
    """
    from rich.console import Console

    names = endpoint.chosen(models, compare=compare)
    messages = Conversation(system).ask(question)
    out = Console(quiet=True) if quiet else console or Console()
    if compare:
        comparison = Comparison(
            endpoint, dict.fromkeys(names, messages), max_tokens=max_tokens, temperature=temperature
        )
        answers = Answers(watch_comparison(comparison, out), comparison.cut)
        for error in comparison.errors.values():
            raise error
    else:
        pieces: list[str] = []
        with open_client(endpoint) as client:
            stream = chat_stream(
                client, names[0], messages, max_tokens=max_tokens, temperature=temperature, target=endpoint.target
            )
            for piece in stream:
                pieces.append(piece)
                write(out, piece)
        write(out, "\n")
        answers = Answers({names[0]: "".join(pieces)}, names if stream.cut else ())
    for name in () if quiet else answers.cut:
        write(notes or Console(stderr=True), cut_note(name, max_tokens) + "\n")
    return answers


class Answers(dict[str, str]):
    """Answers by the model's name.

    Args:
        answers: The texts by the model's name.
        cut: The models whose answer ended at a limit.
    """

    def __init__(self, answers: Mapping[str, str], cut: Collection[str]) -> None:
        super().__init__(answers)
        self.cut = [name for name in answers if name in cut]
        """The models whose answer ended at a limit, in the answers' order."""
