"""`tuneyard chat`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from tuneyard.cli import options as o


def chat(
    words: Annotated[
        list[str] | None,
        Argument(metavar="[NAME] [QUESTION]", help="A running server (by default the only one), and a question."),
    ] = None,
    compare: Annotated[bool, Option("--compare", help="Show the base model's answer beside the tuned one's.")] = False,
    system: Annotated[str | None, Option("--system", metavar="TEXT", help="A system message.")] = None,
    max_tokens: Annotated[
        int | None, Option("--max-tokens", min=1, help="The maximum number of tokens in an answer.")
    ] = None,
    temperature: Annotated[
        float | None, Option("--temperature", min=0, help="The sampling temperature; 0 is deterministic.")
    ] = None,
    on: o.On = "local",
    context: o.KubeContext = None,
    namespace: o.Namespace = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Chat with a served model, or send it one QUESTION. Ctrl-C stops the answer, not the program."""
    from tuneyard.chatting import connect, read_question, run_chat, run_once
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output
    from tuneyard.errors import UsageError
    from tuneyard.runners import find_server, is_ready, wait_until_ready

    out = Output(json, quiet)
    name, given = _name_and_question(words or [])
    runner = client(on, context, namespace).runner
    server = find_server(runner, name)
    question = read_question(given)
    if not is_ready(server):
        server = wait_until_ready(runner, server.key, notify=lambda why: out.note(f"{server.name}: {why}"))
    if question is None and json:
        raise UsageError("--json needs a question.", hint='Add one: tuneyard chat NAME "What is a manifest?" --json')
    with runner.reach(server.key) as reached:
        endpoint = connect(reached.url, reached.api_key, target=runner.options)
        if question is None:
            run_chat(endpoint, compare=compare, system=system, max_tokens=max_tokens, temperature=temperature)
            return
        answers = run_once(
            endpoint,
            question,
            compare=compare,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            quiet=json,
        )
    out.data({"question": question, "answers": answers, "cut": answers.cut})


def _name_and_question(words: list[str]) -> tuple[str | None, str | None]:
    """A single word is a server's name; anything with a space in it is a question."""
    from tuneyard.errors import UsageError

    if len(words) > 2:
        raise UsageError(
            f"tuneyard chat takes a name and a question, not {len(words)} arguments.",
            hint=f'Put the question in quotes: tuneyard chat {words[0]} "{" ".join(words[1:])}"',
        )
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return None, None
    return (None, words[0]) if " " in words[0].strip() else (words[0], None)
