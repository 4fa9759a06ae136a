"""Asking before something is gone for good."""

from __future__ import annotations

import sys


def confirm_deletion(what: str) -> None:
    """Ask whether to delete; returns only where the answer is yes.

    Args:
        what: What would be deleted.

    Raises:
        UsageError: If nobody can be asked.
    """
    from typer import confirm

    from tuneyard.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError(f"Deleting {what} has to be confirmed.", hint="Say --yes where nobody can be asked.")
    confirm(f"Delete {what}?", abort=True, err=True)
