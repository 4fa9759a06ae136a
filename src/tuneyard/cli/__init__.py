"""The `tuneyard` command: the verbs of `tuneyard.client` for a terminal.

    main       registers the commands, nothing else
    options    every option, declared once
    _output    everything that is printed: text, JSON or quiet; data on stdout, notes on stderr
    _errors    the outermost edge, where an error becomes a message, a hint and an exit code
    _follow    the display of a running run

Commands import what they need when they are called, so that `tuneyard --help` is fast.
"""

from __future__ import annotations


def main() -> int:
    """Run the command line and return its exit code."""
    from tuneyard.cli._errors import run

    return run()


__all__ = ["main"]
