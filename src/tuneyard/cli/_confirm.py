"""Confirmation before something is deleted."""

from __future__ import annotations

import sys


def confirm_deletion(what: str) -> None:
    """Prompt for confirmation; return only if the answer is yes.

    Args:
        what: What would be deleted.

    Raises:
        UsageError: If there is no terminal to prompt on.
    """
    from typer import confirm

    from tuneyard.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError(f"Deleting {what} needs confirmation.", hint="Without a terminal, add --yes.")
    confirm(f"Delete {what}?", abort=True, err=True)
