"""A conversation's messages, which give the next question its context. Knows neither server nor terminal."""

from __future__ import annotations

import json
from pathlib import Path


class Conversation:
    """The messages of one conversation, an optional system message first.

    Args:
        system: A system message to begin with; None for none.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system or None
        self._turns: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, as a request sends them."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *(dict(message) for message in self._turns)]

    def ask(self, question: str) -> list[dict[str, str]]:
        """Add a question.

        Args:
            question: Its text.

        Returns:
            All messages.
        """
        self._turns.append({"role": "user", "content": question})
        return self.messages

    def answer(self, text: str) -> None:
        """Add an answer, whole or stopped in the middle; an empty answer removes the question.

        Args:
            text: The answer.
        """
        if text:
            self._turns.append({"role": "assistant", "content": text})
        elif self._turns and self._turns[-1]["role"] == "user":
            self._turns.pop()

    def reset(self) -> None:
        """Remove all messages but the system message."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Append it as a line to a JSONL file, in the format of training data.

        Args:
            path: The file; created where it does not exist.
        """
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
