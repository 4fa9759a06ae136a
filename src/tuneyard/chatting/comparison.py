"""A comparison: several models that answer at once, each in a thread, shown side by side while the answers grow."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tuneyard.chatting.client import Message, chat_stream
from tuneyard.chatting.display import in_turn, two_answers, write
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.errors import TuneyardError

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.1


class Comparison:
    """The growing answers of several models to their conversations.

    Args:
        endpoint: The server.
        messages: The messages for each model, by its name.
        max_tokens: The most tokens of an answer.
        temperature: 0 for the same answers every time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        messages: Mapping[str, Sequence[Message]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self.errors: dict[str, TuneyardError] = {}
        self.cut: set[str] = set()
        """The models whose answer ended at a limit."""
        self._pieces: dict[str, list[str]] = {name: [] for name in messages}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(endpoint, name, own, max_tokens, temperature),
                name=f"answer-{name}",
                daemon=True,  # a thread that waits for the first piece must not keep the program alive
            )
            for name, own in messages.items()
        ]
        for thread in self._threads:
            thread.start()

    def answers(self) -> dict[str, str]:
        """Return the answers so far by the model's name."""
        return {name: "".join(pieces) for name, pieces in self._pieces.items()}

    def wait(self, seconds: float) -> bool:
        """Wait for the answers to end.

        Args:
            seconds: The longest wait.

        Returns:
            Whether all have ended.
        """
        for thread in self._threads:
            thread.join(seconds / len(self._threads))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Stop each answer at its next piece, on the server too; the pieces so far are kept."""
        self._stop.set()
        self.wait(1.0)

    def _run(
        self,
        endpoint: Endpoint,
        name: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float | None,
    ) -> None:
        try:
            with open_client(endpoint) as client:
                stream = chat_stream(
                    client, name, messages, max_tokens=max_tokens, temperature=temperature, target=endpoint.target
                )
                for piece in stream:
                    if self._stop.is_set():
                        stream.close()
                        return
                    self._pieces[name].append(piece)
                if stream.cut:
                    self.cut.add(name)
        except TuneyardError as error:
            self.errors[name] = error


def watch_comparison(comparison: Comparison, console: Console) -> dict[str, str]:
    """Show answers side by side while they grow; on a pipe, when they are complete.

    Ctrl-C stops the answers, and KeyboardInterrupt is raised.

    Args:
        comparison: The answers.
        console: The console to show them on.

    Returns:
        The answers by the model's name.
    """
    from rich.live import Live

    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
                ended = False
                while not ended:
                    ended = comparison.wait(_REFRESH_SECONDS)
                    live.update(two_answers(comparison.answers(), width=console.width), refresh=True)
        else:
            while not comparison.wait(_REFRESH_SECONDS):
                pass
            write(console, in_turn(comparison.answers()) + "\n")
    finally:
        comparison.stop()
    return comparison.answers()
