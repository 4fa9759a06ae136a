"""How often and how long a request to the Hub is tried again: one policy, with no library's retries inside it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Answers that may be another one a little later."""


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Patience:
    """When to try again, and when to give up.

    Attributes:
        attempts: How often in a row nothing may come before it is given up; any byte received starts the count again.
        first_wait_seconds: The first wait; each further one is twice as long, up to `longest_wait_seconds`.
        longest_wait_seconds: The longest wait of our own choosing.
        longest_asked_seconds: The longest `Retry-After` that is waited for. The Hub's rate limits count in windows of
            300 s.
        sleep: Waits; raises where the waiting is to end early.
        tell: Told in a sentence why there is a wait.
    """

    attempts: int = 5
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 8.0
    longest_asked_seconds: float = 330.0
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = _say

    def wait(self, failures: int, why: str, *, asked_seconds: float | None = None) -> bool:
        """Wait before the next try, unless it is time to give up.

        Args:
            failures: How many tries in a row have failed; 1 after the first.
            why: What happened, a few words.
            asked_seconds: How long the server asks to wait (`Retry-After`), if it does.

        Returns:
            Whether to try again.
        """
        if failures >= self.attempts:
            return False
        seconds = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (failures - 1))
        if asked_seconds is not None:
            if asked_seconds > self.longest_asked_seconds:
                return False
            seconds = asked_seconds
        self.tell(f"{why}; trying again in {seconds:.3g} s ({failures} of {self.attempts - 1})")
        self.sleep(seconds)
        return True
