"""How often and for how long a request to the Hub is retried: one policy, with no library's retries inside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be temporary."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to retry, and when to give up.

    Attributes:
        attempts: How many attempts in a row may fail before giving up; any byte received resets the count.
        first_wait_seconds: The first wait; each further one is twice as long, up to `longest_wait_seconds`.
        longest_wait_seconds: The longest wait without a `Retry-After`.
        longest_retry_after_seconds: The longest `Retry-After` that is honoured. The Hub counts rate limits in windows
            of 300 s.
        sleep: Waits; raises to end the wait early.
        notify: Called with one line before each wait.
    """

    attempts: int = 5
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 8.0
    longest_retry_after_seconds: float = 330.0
    sleep: Callable[[float], None] = time.sleep
    notify: Callable[[str], None] = logger.warning

    def wait(self, failures: int, why: str, *, retry_after_seconds: float | None = None) -> bool:
        """Wait before the next attempt, unless it is time to give up.

        Args:
            failures: How many attempts in a row have failed; 1 after the first.
            why: What happened, in a few words.
            retry_after_seconds: How long the server requests to wait (`Retry-After`), if it does.

        Returns:
            Whether to retry.
        """
        if failures >= self.attempts:
            return False
        seconds = min(self.longest_wait_seconds, self.first_wait_seconds * 2 ** (failures - 1))
        if retry_after_seconds is not None:
            if retry_after_seconds > self.longest_retry_after_seconds:
                return False
            seconds = retry_after_seconds
        self.notify(f"{why}; retrying in {seconds:.3g} s ({failures} of {self.attempts - 1})")
        self.sleep(seconds)
        return True
