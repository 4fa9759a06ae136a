"""`tuneyard chat`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from tuneyard.cli import options as o


def chat(
    words: Annotated[
        list[str] | None,
        Argument(metavar="[NAME] [QUESTION]", help="A running server; the only one if left out. And what to ask."),
    ] = None,
    compare: Annotated[bool, Option("--compare", help="Let the base model answer beside the tuned one.")] = False,
    system: Annotated[str | None, Option("--system", metavar="TEXT", help="A system message to begin with.")] = None,
    on: o.On = "local",
    json: o.Json = False,
) -> None:
    """Talk with a served model; with a QUESTION, ask once. Ctrl-C stops the answer, not the program."""
    from tuneyard.cli._output import Output
    from tuneyard.runs.serving import find_server
    from tuneyard.runs.targets import runner_for

    name, question = _name_and_question(words or [])
    server = find_server(runner_for(on), name)
    del question, server, compare, system
    Output(json)


def _name_and_question(words: list[str]) -> tuple[str | None, str | None]:
    """One word alone is a server's name; anything with a space in it is a question."""
    from tuneyard.errors import UsageError

    if len(words) > 2:
        raise UsageError(
            f"tuneyard chat takes a name and a question, not {len(words)} words.",
            hint=f'Put the question in quotes: tuneyard chat {words[0]} "{" ".join(words[1:])}"',
        )
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return None, None
    return (None, words[0]) if " " in words[0].strip() else (words[0], None)
