"""Several models answering at once, each in a thread of its own; whoever shows them looks at what is there so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from tuneyard.chatting.client import Message, chat_stream
from tuneyard.chatting.endpoint import Endpoint, open_client
from tuneyard.errors import TuneyardError


class Race:
    """The answers of several models to their conversations, growing until `done`.

    Args:
        endpoint: Where they are served.
        asked: The messages for each model, by its name.
        max_tokens: The longest answer.
        temperature: 0 for the same answers every time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        asked: Mapping[str, Sequence[Message]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> None:
        self.errors: dict[str, TuneyardError] = {}
        self.cut: set[str] = set()
        """Whose answer ended at a limit."""
        self._pieces: dict[str, list[str]] = {name: [] for name in asked}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(endpoint, name, messages, max_tokens, temperature),
                name=f"answer-{name}",
                daemon=True,  # one that waits for a server's first word must not keep the program alive
            )
            for name, messages in asked.items()
        ]
        for thread in self._threads:
            thread.start()

    def answers(self) -> dict[str, str]:
        """What each has said so far."""
        return {name: "".join(pieces) for name, pieces in self._pieces.items()}

    def wait(self, seconds: float) -> bool:
        """Wait a moment.

        Args:
            seconds: How long at most.

        Returns:
            Whether all have ended.
        """
        for thread in self._threads:
            thread.join(seconds / len(self._threads))
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Let each end at its next piece, which makes the server stop too; what was said stays."""
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
