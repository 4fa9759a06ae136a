"""Progress of long work: a bar with rate and time left on a terminal, a line every few seconds elsewhere.

Everything goes to standard error, so that standard output stays data. Not a logger: it tells how far, never what
happened.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

Advance = Callable[[float], None]
"""Called with how much more is done, in the bar's unit."""

Unit = Literal["bytes", "items"]

LINE_EVERY_SECONDS = 10.0


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
    if sys.stderr.isatty():
        yield from _bar(description, total, unit)
    else:
        yield from _lines(description, total, unit)


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
    start = last = time.monotonic()
    done = 0.0
    lock = threading.Lock()

    def advance(amount: float) -> None:
        nonlocal done, last
        with lock:
            done += amount
            now = time.monotonic()
            if now - last >= LINE_EVERY_SECONDS:
                last = now
                print(_line(description, done, total, unit, now - start), file=sys.stderr, flush=True)

    yield advance
    elapsed = time.monotonic() - start
    print(f"{description}: {_amount(done, unit)} in {elapsed:.1f} s", file=sys.stderr, flush=True)


def _line(description: str, done: float, total: float | None, unit: Unit, elapsed_seconds: float) -> str:
    rate = done / elapsed_seconds if elapsed_seconds else 0.0
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
