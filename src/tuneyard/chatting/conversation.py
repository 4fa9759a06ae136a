"""What was said so far, kept so that the next question is understood. No server and no terminal in here."""

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
        self._said: list[dict[str, str]] = []

    @property
    def messages(self) -> list[dict[str, str]]:
        """All messages, as a model is asked with."""
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *(dict(message) for message in self._said)]

    def ask(self, question: str) -> list[dict[str, str]]:
        """Add a question.

        Args:
            question: Its text.

        Returns:
            All messages.
        """
        self._said.append({"role": "user", "content": question})
        return self.messages

    def answer(self, text: str) -> None:
        """Add what was answered, be it whole or stopped in the middle; no answer at all takes the question back.

        Args:
            text: The answer.
        """
        if text:
            self._said.append({"role": "assistant", "content": text})
        elif self._said and self._said[-1]["role"] == "user":
            self._said.pop()

    def reset(self) -> None:
        """Forget all that was said; the system message stays."""
        self._said.clear()

    def save(self, path: Path) -> None:
        """Write it as one more line of a JSONL file, in the form that finetuning takes.

        Args:
            path: The file; made where it is missing.
        """
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"messages": self.messages}, ensure_ascii=False) + "\n")
