"""One question and its answer: standard output gets the answer and nothing else, so that it can be piped on.

That an answer was cut is written to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from tuneyard.chatting.client import chat_stream, cut_note
from tuneyard.chatting.conversation import Conversation
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.chatting.race import Race
from tuneyard.chatting.show import in_turn, two_answers, write
from tuneyard.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

_LOOK_SECONDS = 0.1


def read_question(words: str | None, stdin: TextIO | None = None) -> str | None:
    """Take the question from the command line, or from standard input where that is a file or a pipe.

    Args:
        words: The question as an argument; None where there was none.
        stdin: Where else it may come from; the process's own where None.

    Returns:
        The question, or None where someone sits at a terminal and has asked nothing yet.

    Raises:
        UsageError: The question is empty.
    """
    source = stdin or sys.stdin
    if words is None and source.isatty():
        return None
    question = (words if words is not None else source.read()).strip()
    if not question:
        raise UsageError("The question is empty.", hint='Ask something: tuneyard chat NAME "What is a manifest?"')
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
    """Ask once and write the answer as it comes; with `compare`, two answers.

    Args:
        endpoint: Where the models are served.
        question: What to ask.
        models: Which to ask; the endpoint's first, or base and tuned, where None.
        compare: Whether two answer.
        system: A system message.
        max_tokens: The longest answer.
        temperature: 0 for the same answer every time.
        console: Where to write; standard output where None.
        notes: Where to write that an answer was cut; standard error where None.
        quiet: Write nothing, only return it (for `--json`).

    Returns:
        The answers by the model's name, the base first, and which of them were cut.

    Raises:
        NotFoundError: A model is not served, or there are no two to compare; and all that `ask` raises.
    """
    from rich.console import Console

    names = endpoint.chosen(models, compare=compare)
    messages = Conversation(system).ask(question)
    out = Console(quiet=True) if quiet else console or Console()
    if compare:
        race = Race(endpoint, dict.fromkeys(names, messages), max_tokens=max_tokens, temperature=temperature)
        answers = Answers(watch_race(race, out), race.cut)
        for error in race.errors.values():
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
        answers: Their texts.
        cut: Whose ended at a limit.
    """

    def __init__(self, answers: Mapping[str, str], cut: Collection[str]) -> None:
        super().__init__(answers)
        self.cut = [name for name in answers if name in cut]
        """Whose answer ended at a limit, in the answers' order."""


def watch_race(race: Race, console: Console) -> dict[str, str]:
    """Show answers side by side while they grow; on a pipe, when they are there.

    Ctrl-C stops the answers and comes through.

    Args:
        race: The answers.
        console: Where to show them.

    Returns:
        The answers by the model's name.
    """
    from rich.live import Live

    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
                ended = False
                while not ended:
                    ended = race.wait(_LOOK_SECONDS)
                    live.update(two_answers(race.answers(), width=console.width), refresh=True)
        else:
            while not race.wait(_LOOK_SECONDS):
                pass
            write(console, in_turn(race.answers()) + "\n")
    finally:
        race.stop()
    return race.answers()
