"""The command line's outermost edge: whatever a command raises becomes a message, a hint and an exit code.

Commands never catch. `process.outermost` does, as for every other process; only a broken pipe is handled here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tuneyard.errors import TuneyardError
from tuneyard.folders import home_folder
from tuneyard.process import outermost

BROKEN_PIPE = 141
"""The exit code that a shell reports for a broken pipe (`tuneyard runs | head -1`)."""


def run() -> int:
    """Run the command that the arguments name.

    Returns:
        The exit code.
    """
    return outermost(_command, traceback_file=_traceback_file)


def _command() -> int:
    from tuneyard.cli.main import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:
        # Discard what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def _traceback_file() -> Path:
    name = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    try:
        return home_folder() / "errors" / name
    except TuneyardError:
        return Path(tempfile.gettempdir()) / name
