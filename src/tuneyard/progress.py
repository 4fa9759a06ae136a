"""Progress of long work: a bar with rate and time left on a terminal, a line every few seconds elsewhere.

Lines are logged, and a bar is drawn where the log is shown (`terminal.show_logs`): standard output stays data, and a
program that uses the package as a library sees neither. A process without a terminal of its own also leaves the newest
state of its bar in the file that `TUNEYARD_PROGRESS` names, so that the process that launched it can draw it.
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
"""Called with each further amount done, in the bar's unit."""

Show = Callable[[float, float, str], None]
"""Called with the amount done, the total, and the text beside the bar."""

Notify = Callable[[str], None]
"""Called with one line of text: a notice about values, or what is waited for."""

Unit = Literal["bytes", "items"]

logger = logging.getLogger(__name__)

LINE_EVERY_SECONDS = 10.0

SHOW_EVERY_SECONDS = 1.0
"""The shortest interval between drawings of `moving_bar`: a pod keeps what its terminal shows as its log."""

_WHOLE_LINES = 4096
FILE_VARIABLE = "TUNEYARD_PROGRESS"
_FILE_EVERY_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class BarState:
    """The state of another process's bar.

    Attributes:
        description: What is being done.
        done: The amount done, in `unit`.
        total: The total, in `unit`; None where unknown.
        unit: `bytes` or `items`.
        per_second: The rate so far, in `unit` per second.
    """

    description: str
    done: float
    total: float | None
    unit: Unit
    per_second: float


def read_bar(path: Path) -> BarState | None:
    """Read the newest state of a process's bar; None where it shows none.

    Args:
        path: The file that its `TUNEYARD_PROGRESS` names.
    """
    try:
        return BarState(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def draw_bar(path: Path, *, every_seconds: float = 0.25) -> Generator[None]:
    """Draw another process's bars on this terminal while the `with` block runs.

    Args:
        path: The file that its `TUNEYARD_PROGRESS` names.
        every_seconds: The interval between readings.
    """
    from rich import progress
    from rich.console import Console

    ended = threading.Event()
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(bar_width=30)]
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None, visible=False)

        def update() -> None:
            while not ended.wait(every_seconds):
                state = read_bar(path)
                if state is None:
                    display.update(task, visible=False)
                    continue
                text = _line(state.description, state.done, state.total, state.unit, state.per_second)
                display.update(task, visible=True, description=text, completed=state.done, total=state.total)

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextmanager
def progress_bar(description: str, total: float | None, unit: Unit = "items") -> Generator[Advance]:
    """Show the progress of work for the duration of the `with` block.

    Args:
        description: What is being done, in a few words.
        total: The total amount, in `unit`; None where unknown.
        unit: `bytes` for sizes and byte rates, `items` for counts.

    Yields:
        A function to call with each further amount done. It may be called from any thread.
    """
    if _on_terminal():
        yield from _bar(description, total, unit)
    else:
        yield from _lines(description, total, unit)


@contextmanager
def moving_bar() -> Generator[Show]:
    """Draw a bar with a text beside it on a terminal, and nothing elsewhere; the log scrolls above it.

    Yields:
        A function to call with each new state; it draws at most once in `SHOW_EVERY_SECONDS`.
    """
    if not _on_terminal():
        yield lambda done, total, text: None
        return
    from rich import progress
    from rich.console import Console

    columns = [progress.BarColumn(bar_width=20), progress.TextColumn("{task.description}", markup=False)]
    console = Console(stderr=True, width=_WHOLE_LINES)  # so that no line of the log is wrapped
    with progress.Progress(*columns, console=console, auto_refresh=False, transient=True) as display:
        task = display.add_task("", visible=False)
        drawn = -SHOW_EVERY_SECONDS

        def show(done: float, total: float, text: str) -> None:
            nonlocal drawn
            now = time.monotonic()
            is_due = now - drawn >= SHOW_EVERY_SECONDS
            drawn = now if is_due else drawn
            # Updated even where it isn't drawn: a line of the log redraws it below.
            display.update(task, completed=done, total=total, description=text, visible=True, refresh=is_due)

        yield show


def _on_terminal() -> bool:
    return sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)


def _bar(description: str, total: float | None, unit: Unit) -> Generator[Advance]:
    from rich import progress
    from rich.console import Console

    amounts: list[progress.ProgressColumn] = (
        [progress.DownloadColumn(), progress.TransferSpeedColumn()]
        if unit == "bytes"
        else [progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[rate]}")]
    )
    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        *amounts,
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
                _write_state(file, BarState(description, done, total, unit, rate))

    try:
        yield advance
    finally:
        if file is not None:
            file.unlink(missing_ok=True)
    elapsed = time.monotonic() - start
    logger.info("%s: %s in %.1f s", description, _amount(done, unit), elapsed)


def _write_state(file: Path, state: BarState) -> None:
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
