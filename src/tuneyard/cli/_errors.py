"""The command line's outermost edge: whatever a command raises becomes a sentence, a hint and an exit code.

Commands never catch. The first row of `TABLE` that fits decides; what no row fits is an error of ours, whose traceback
goes to a file and not to the screen.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneyard.errors import INTERRUPTED, TuneyardError
from tuneyard.folders import home_folder
from tuneyard.process import explain, tell_error, tell_internal
from tuneyard.runners.waiting import RunEndedError
from tuneyard.terminal import prepare_text, show_logs

BROKEN_PIPE = 141
"""What a shell reports for a program whose reader went away (`tuneyard runs | head -1`)."""


def run() -> int:
    """Run the command that the arguments name.

    Returns:
        The exit code.
    """
    prepare_text()
    show_logs()
    from tuneyard.cli.main import app

    try:
        app()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except BaseException as error:  # the outermost edge
        for kind, handle in TABLE:
            if isinstance(error, kind):
                return handle(error)
        raise
    return 0


def _ended_run(error: RunEndedError) -> int:
    tell_error(error)
    return error.run_exit_code


def _mistake(error: TuneyardError) -> int:
    tell_error(error)
    return error.exit_code


def _interrupted(_error: KeyboardInterrupt) -> int:
    return INTERRUPTED


def _broken_pipe(_error: BrokenPipeError) -> int:
    # What is still buffered has nowhere to go either.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _others(error: Exception) -> int:
    if explained := explain(error):
        tell_error(explained)
        return explained.exit_code
    tell_internal(error, _errors_folder(), f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt")
    return TuneyardError.exit_code


def _errors_folder() -> Path:
    try:
        return home_folder() / "errors"
    except TuneyardError:
        return Path(tempfile.gettempdir())


TABLE: tuple[tuple[type[BaseException], Callable[[Any], int]], ...] = (
    (KeyboardInterrupt, _interrupted),
    (RunEndedError, _ended_run),
    (TuneyardError, _mistake),
    (BrokenPipeError, _broken_pipe),
    (Exception, _others),
)
"""Which errors are told how; the first row that fits wins."""
