"""A conversation at the terminal: streamed, with history; Ctrl-C stops the answer, not the program.

/reset          clear the history              /save FILE   append the conversation to a JSONL file
/system TEXT    set the system message         /help        list the commands
/exit, Ctrl-D   exit
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.chatting.client import chat_stream, cut_note
from tuneyard.chatting.comparison import Comparison, watch_comparison
from tuneyard.chatting.conversation import Conversation
from tuneyard.chatting.display import write
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.errors import TuneyardError

if TYPE_CHECKING:
    from openai import OpenAI
    from rich.console import Console

PROMPT = "> "
HELP = "/reset clears the history, /system TEXT sets a system message, /save FILE appends it as JSONL, /exit exits."

ReadLine = Callable[[str], str]
"""Shows a prompt and returns the typed line; raises EOFError at the end of input."""


def run_chat(
    endpoint: Endpoint,
    models: Sequence[str] | None = None,
    *,
    compare: bool = False,
    system: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    console: Console | None = None,
    read_line: ReadLine | None = None,
) -> None:
    """Chat until the end of input or `/exit`.

    Args:
        endpoint: The server.
        models: The models; the endpoint's first, or base and tuned model, where None.
        compare: Whether two models answer side by side, each with its own history.
        system: The initial system message.
        max_tokens: The most tokens of an answer.
        temperature: 0 for the same answers every time.
        console: The console to write on; standard output where None.
        read_line: The source of lines; the terminal where None.

    Raises:
        NotFoundError: The server lacks a model, or has no two to compare.
    """
    from rich.console import Console

    out = console or Console()
    names = endpoint.chosen(models, compare=compare)
    session = _Session(endpoint, names, out, system, max_tokens, temperature)
    out.print(
        f"[bold]{' and '.join(names)}[/] at {endpoint.url}. Ctrl-C stops an answer, Ctrl-D exits, /help shows help."
    )
    read = read_line or _terminal()
    while True:
        try:
            line = read(PROMPT).strip()
        except EOFError:
            out.print()
            return
        except KeyboardInterrupt:
            out.print("\n[dim]Ctrl-D or /exit exits.[/]")
            continue
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            session.command(line)
        elif line:
            with suppress(KeyboardInterrupt):  # another Ctrl-C while the answer is being stored
                session.question(line)


class _Session:
    """A conversation with each model, and the console that shows them."""

    def __init__(
        self,
        endpoint: Endpoint,
        names: tuple[str, ...],
        console: Console,
        system: str | None,
        max_tokens: int | None,
        temperature: float | None,
    ) -> None:
        self._endpoint, self._console = endpoint, console
        self._max_tokens, self._temperature = max_tokens, temperature
        self._conversations = {name: Conversation(system) for name in names}

    def question(self, text: str) -> None:
        """Send a question, show the answer as it arrives, and store it."""
        try:
            if len(self._conversations) == 1:
                self._one(text)
            else:
                self._both(text)
        except TuneyardError as error:
            self._console.print(f"error: {error.message}", style="red", markup=False)
            if error.hint:
                self._console.print(f"hint: {error.hint}", markup=False)

    def command(self, line: str) -> None:
        """Run a command, a line that begins with `/`."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/reset":
            for conversation in self._conversations.values():
                conversation.reset()
            self._note("The history is cleared.")
        elif word == "/system":
            for conversation in self._conversations.values():
                conversation.system = rest or None
            self._note("The system message is set." if rest else "The system message is removed.")
        elif word == "/save" and rest:
            self._save(Path(rest).expanduser())
        else:
            self._note(HELP)

    def _save(self, path: Path) -> None:
        try:
            for conversation in self._conversations.values():
                conversation.save(path)
        except OSError as error:
            self._note(f"The conversation could not be saved to '{path}': {error.strerror}.")
        else:
            self._note(f"Saved to {path}.")

    def _one(self, text: str) -> None:
        ((name, conversation),) = self._conversations.items()
        pieces: list[str] = []
        cut = False
        try:
            with open_client(self._endpoint) as client:
                cut = self._stream(client, name, conversation.ask(text), pieces)
        finally:
            conversation.answer("".join(pieces))
            write(self._console, "\n")
        if cut:
            self._note(self._cut_note(name))

    def _stream(self, client: OpenAI, name: str, messages: list[dict[str, str]], pieces: list[str]) -> bool:
        """Show an answer and collect it, until Ctrl-C stops it; return whether it ended at a limit."""
        stream = chat_stream(
            client,
            name,
            messages,
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            target=self._endpoint.target,
        )
        try:
            for piece in stream:
                pieces.append(piece)
                write(self._console, piece)
        except KeyboardInterrupt:
            write(self._console, " …")
        finally:
            stream.close()  # the server stops generating when the connection ends
        return stream.cut

    def _cut_note(self, name: str) -> str:
        return cut_note(name, self._max_tokens) + (" /reset starts over." if self._max_tokens is None else "")

    def _both(self, text: str) -> None:
        messages = {name: conversation.ask(text) for name, conversation in self._conversations.items()}
        comparison = Comparison(self._endpoint, messages, max_tokens=self._max_tokens, temperature=self._temperature)
        try:
            watch_comparison(comparison, self._console)
        except KeyboardInterrupt:
            self._note("Stopped.")
        finally:
            answers = comparison.answers()
            for name, conversation in self._conversations.items():
                conversation.answer(answers[name])
        for name in sorted(comparison.cut):
            self._note(self._cut_note(name))
        for error in comparison.errors.values():
            raise error

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)


def _terminal() -> ReadLine:
    """Python's own prompt, with line editing and history where the system has them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]  (importing it enables it)
    return input
