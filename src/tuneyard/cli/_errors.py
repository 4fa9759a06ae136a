"""The command line's outermost edge: whatever a command raises becomes a sentence, a hint and an exit code.

Commands never catch. The first row of `TABLE` that fits decides; what no row fits is an error of ours, whose traceback
goes to a file and not to the screen.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuneyard.errors import INTERRUPTED, TuneyardError
from tuneyard.process import tell_error
from tuneyard.runs.home import home_folder
from tuneyard.runs.outcome import RunEndedError

BROKEN_PIPE = 141
"""What a shell reports for a program whose reader went away (`tuneyard runs | head -1`)."""


def run() -> int:
    """Run the command that the arguments name.

    Returns:
        The exit code.
    """
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


def _of_the_system(error: OSError) -> int:
    where = f" {error.filename}" if error.filename else ""
    tell_error(
        TuneyardError(
            f"The system refused{where}: {error.strerror or error}.",
            hint="Look at the path's permissions and at the space left on its disk.",
        )
    )
    return TuneyardError.exit_code


def _ours(error: Exception) -> int:
    text = "".join(traceback.format_exception(error))
    if os.environ.get("TUNEYARD_DEBUG") == "1":
        print(text, file=sys.stderr)
    tell_error(
        TuneyardError(
            f"Something in Tuneyard itself went wrong: {type(error).__name__}: {_first_line(error)}",
            hint=f"The traceback is in {_write_down(text)}; please report it.",
        )
    )
    return TuneyardError.exit_code


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _write_down(text: str) -> Path:
    path = home_folder() / "errors" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


TABLE: tuple[tuple[type[BaseException], Callable[[Any], int]], ...] = (
    (KeyboardInterrupt, _interrupted),
    (RunEndedError, _ended_run),
    (TuneyardError, _mistake),
    (BrokenPipeError, _broken_pipe),
    (OSError, _of_the_system),
    (Exception, _ours),
)
"""Which errors are told how; the first row that fits wins."""
