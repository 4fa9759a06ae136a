"""One line at a time to the person who started the run, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable

Tell = Callable[[str], None]
"""Takes one line for the person who started the run."""


def tell(line: str) -> None:
    """Say one line."""
    print(line, file=sys.stderr, flush=True)
