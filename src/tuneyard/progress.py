"""Progress of long work: a bar with rate and time left on a terminal, a line every few seconds elsewhere.

Lines are logged, and a bar is drawn where the log is shown (`terminal.show_logs`): standard output stays data, and a
program that uses the package as a library sees neither. A process without a terminal of its own also leaves the newest
state of its bar in the file that `TUNEYARD_PROGRESS` names, so that whoever launched it can draw it.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Advance = Callable[[float], None]
"""Called with how much more is done, in the bar's unit."""

Show = Callable[[float, float, str], None]
"""Called with how much is done, out of how much, and what to say beside the bar."""

Notify = Callable[[str], None]
"""Called with one line of text: a notice about values, or what is waited for."""

Unit = Literal["bytes", "items"]

logger = logging.getLogger(__name__)

LINE_EVERY_SECONDS = 10.0

SHOW_EVERY_SECONDS = 1.0
"""How often `moving_bar` may be drawn: what a pod's terminal shows is kept as its log."""

_WHOLE_LINES = 4096
FILE_VARIABLE = "TUNEYARD_PROGRESS"
_FILE_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class BarState:
    """How far a bar of another process is.

    Attributes:
        description: What is being done.
        done: How much is done, in `unit`.
        total: How much there is to do; None where that isn't known.
        unit: `bytes` or `items`.
        per_second: The rate so far.
    """

    description: str
    done: float
    total: float | None
    unit: Unit
    per_second: float


def read_bar(path: Path) -> BarState | None:
    """Read the newest bar that a process has left; None where it shows none.

    Args:
        path: The file that its `TUNEYARD_PROGRESS` named.
    """
    try:
        return BarState(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def draw_bar(path: Path, *, every_seconds: float = 0.25) -> Generator[None]:
    """Draw another process's bars on this terminal while the `with` block runs.

    Args:
        path: The file that its `TUNEYARD_PROGRESS` named.
        every_seconds: How often to look.
    """
    from rich import progress
    from rich.console import Console

    ended = threading.Event()
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(bar_width=30)]
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None, visible=False)

        def look() -> None:
            while not ended.wait(every_seconds):
                state = read_bar(path)
                if state is None:
                    display.update(task, visible=False)
                    continue
                text = _line(state.description, state.done, state.total, state.unit, state.per_second)
                display.update(task, visible=True, description=text, completed=state.done, total=state.total)

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def progress_bar(description: str, total: float | None, unit: Unit = "items") -> Generator[Advance]:
    """Show how far a piece of work is while the `with` block runs.

    Args:
        description: What is being done, a few words.
        total: How much there is to do in all, in `unit`; None where that isn't known.
        unit: `bytes` for sizes and byte rates, `items` for anything counted.

    Yields:
        A function to call with each further amount done. It may be called from any thread.
    """
    if _on_terminal():
        yield from _bar(description, total, unit)
    else:
        yield from _lines(description, total, unit)


@contextmanager
def moving_bar() -> Generator[Show]:
    """Draw a bar with a text beside it on a terminal, and nothing elsewhere; what else is said scrolls above it.

    Yields:
        Call it whenever there is something new; it draws at most once in `SHOW_EVERY_SECONDS`.
    """
    if not _on_terminal():
        yield lambda done, total, text: None
        return
    from rich import progress
    from rich.console import Console

    columns = [progress.BarColumn(bar_width=20), progress.TextColumn("{task.description}", markup=False)]
    console = Console(stderr=True, width=_WHOLE_LINES)  # a line that is said meanwhile is one line of the log
    with progress.Progress(*columns, console=console, auto_refresh=False, transient=True) as display:
        task = display.add_task("", visible=False)
        drawn = -SHOW_EVERY_SECONDS

        def show(done: float, total: float, text: str) -> None:
            nonlocal drawn
            now = time.monotonic()
            is_due = now - drawn >= SHOW_EVERY_SECONDS
            drawn = now if is_due else drawn
            # Updated even where it isn't drawn: what is said meanwhile draws it anew, below.
            display.update(task, completed=done, total=total, description=text, visible=True, refresh=is_due)

        yield show


def _on_terminal() -> bool:
    return sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)


def _bar(description: str, total: float | None, unit: Unit) -> Generator[Advance]:
    from rich import progress
    from rich.console import Console

    how_far: list[progress.ProgressColumn] = (
        [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        if unit == "bytes"
        else [progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}")]
    )
    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        *how_far,
        progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    ]
    with progress.Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(description, total=total, rate="")

        def advance(amount: float) -> None:
            speed = display.tasks[0].speed
            display.update(task, advance=amount, rate=f"{speed:.1f}/s" if speed else "")

        yield advance


def _lines(description: str, total: float | None, unit: Unit) -> Generator[Advance]:
    start = logged = written = time.monotonic()
    done = 0.0
    lock = threading.Lock()
    file = Path(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None

    def advance(amount: float) -> None:
        nonlocal done, logged, written
        with lock:
            done += amount
            now = time.monotonic()
            rate = done / max(now - start, 1e-9)
            if now - logged >= LINE_EVERY_SECONDS:
                logged = now
                logger.info("%s", _line(description, done, total, unit, rate))
            if file is not None and now - written >= _FILE_EVERY_SECONDS:
                written = now
                _leave(file, BarState(description, done, total, unit, rate))

    try:
        yield advance
    finally:
        if file is not None:
            file.unlink(missing_ok=True)
    elapsed = time.monotonic() - start
    logger.info("%s: %s in %.1f s", description, _amount(done, unit), elapsed)


def _leave(file: Path, state: BarState) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(asdict(state)), encoding="utf-8")
    partial.replace(file)


def _line(description: str, done: float, total: float | None, unit: Unit, rate: float) -> str:
    text = f"{description}: {_amount(done, unit)}"
    if total:
        text += f" of {_amount(total, unit)} ({100 * done / total:.0f} %)"
    text += f", {_amount(rate, unit)}/s"
    if total and rate:
        text += f", {max(0.0, total - done) / rate:.0f} s left"
    return text


def _amount(number: float, unit: Unit) -> str:
    if unit == "items":
        return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.1f}"
    from rich.filesize import decimal

    return decimal(int(number))
