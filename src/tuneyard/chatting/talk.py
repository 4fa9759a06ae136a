"""A conversation at the terminal: it streams, remembers, and Ctrl-C stops the answer, not the program.

/reset          forget all that was said       /save FILE   keep the conversation as a line of JSONL
/system TEXT    another system message         /help        this list
/exit, Ctrl-D   leave
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.chatting.client import chat_stream, cut_note
from tuneyard.chatting.conversation import Conversation
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.chatting.once import watch_race
from tuneyard.chatting.race import Race
from tuneyard.chatting.show import write
from tuneyard.errors import TuneyardError

if TYPE_CHECKING:
    from openai import OpenAI
    from rich.console import Console

PROMPT = "> "
HELP = "/reset forgets what was said, /system TEXT sets a system message, /save FILE keeps it as JSONL, /exit leaves."

ReadLine = Callable[[str], str]
"""Shows a prompt and gives the line typed; raises EOFError at the end of input."""


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
    """Talk until the end of input or `/exit`.

    Args:
        endpoint: Where the models are served.
        models: Which to talk with; the endpoint's first, or base and tuned, where None.
        compare: Whether two answer, side by side, each with its own history.
        system: A system message to begin with.
        max_tokens: The longest answer.
        temperature: 0 for the same answers every time.
        console: Where to write; standard output where None.
        read_line: Where lines come from; the terminal where None.

    Raises:
        NotFoundError: A model is not served, or there are no two to compare.
    """
    from rich.console import Console

    out = console or Console()
    names = endpoint.chosen(models, compare=compare)
    talk = _Talk(endpoint, names, out, system, max_tokens, temperature)
    out.print(f"[bold]{' and '.join(names)}[/] at {endpoint.url}. Ctrl-C stops an answer, Ctrl-D leaves, /help helps.")
    read = read_line or _terminal()
    while True:
        try:
            line = read(PROMPT).strip()
        except EOFError:
            out.print()
            return
        except KeyboardInterrupt:
            out.print("\n[dim]Ctrl-D or /exit leaves.[/]")
            continue
        if line in ("/exit", "/quit"):
            return
        if line.startswith("/"):
            talk.command(line)
        elif line:
            with suppress(KeyboardInterrupt):  # one more Ctrl-C, while the answer was being put away
                talk.question(line)


class _Talk:
    """One conversation with each model, and where it is shown."""

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
        """Ask, show the answer as it comes, and remember what of it was said."""
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
        """Carry out a line that begins with `/`."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/reset":
            for conversation in self._conversations.values():
                conversation.reset()
            self._note("Forgotten.")
        elif word == "/system":
            for conversation in self._conversations.values():
                conversation.system = rest or None
            self._note("The system message is set." if rest else "There is no system message now.")
        elif word == "/save" and rest:
            self._save(Path(rest).expanduser())
        else:
            self._note(HELP)

    def _save(self, path: Path) -> None:
        try:
            for conversation in self._conversations.values():
                conversation.save(path)
        except OSError as error:
            self._note(f"It could not be saved to {path}: {error.strerror}.")
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
        return cut_note(name, self._max_tokens) + (" /reset begins anew." if self._max_tokens is None else "")

    def _both(self, text: str) -> None:
        asked = {name: conversation.ask(text) for name, conversation in self._conversations.items()}
        race = Race(self._endpoint, asked, max_tokens=self._max_tokens, temperature=self._temperature)
        try:
            watch_race(race, self._console)
        except KeyboardInterrupt:
            self._note("Stopped.")
        finally:
            answers = race.answers()
            for name, conversation in self._conversations.items():
                conversation.answer(answers[name])
        for name in sorted(race.cut):
            self._note(self._cut_note(name))
        for error in race.errors.values():
            raise error

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim", markup=False, highlight=False)


def _terminal() -> ReadLine:
    """Python's own prompt, with line editing and history where the system has them."""
    with suppress(ImportError):
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]  (importing it is what turns it on)
    return input
