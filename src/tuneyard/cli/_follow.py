"""What a terminal shows of a run while it works: its log, or for training a bar with loss and time left.

Looking on only: Ctrl-C ends the look, never the run. Off a terminal a bar becomes a line every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tuneyard.cli._output import Output, duration
from tuneyard.errors import NotFoundError
from tuneyard.progress import draw_bar
from tuneyard.runners import RunInfo, RunKey, Runner, RunProgress
from tuneyard.runners.waiting import changes

LINE_EVERY_SECONDS = 10.0


def follow(runner: Runner, key: RunKey, out: Output) -> RunInfo:
    """Show a run until it has ended.

    Args:
        runner: Where it runs.
        key: Which run.
        out: How this command prints.

    Returns:
        How it ended.

    Raises:
        KeyboardInterrupt: On Ctrl-C, after it was told how to come back.
    """
    with _leaving_it_alone(key, runner, out):
        if key.verb != "finetune":
            return _follow_log(runner, key, out)
        if out.quiet or out.as_json:
            return runner.wait(key)
        show = _bar if sys.stderr.isatty() else _lines
        show(changes(runner, key, every_seconds=runner.look_seconds))
    return runner.get(key)


def follow_all(runner: Runner, out: Output) -> list[RunInfo]:
    """Show every finetuning run that works, a bar each, until all of them have ended.

    Args:
        runner: Where they run.
        out: How this command prints.

    Returns:
        How they ended.

    Raises:
        NotFoundError: If none works.
        KeyboardInterrupt: On Ctrl-C, after it was told how to come back.
    """
    keys = [info.key for info in runner.list("finetune") if not info.ended]
    if not keys:
        raise NotFoundError("No finetuning run works.", hint=f"See the runs there are: tuneyard runs{runner.words}")
    keys.reverse()  # the oldest first: newer ones mostly wait for it
    show = nullcontext(_ignore) if out.quiet or out.as_json else _bars() if sys.stderr.isatty() else _told_lines()
    with _leaving_it_alone(None, runner, out), show as tell:
        while True:
            found = {info.key: info for info in runner.list("finetune")}
            known = [found[key] for key in keys if key in found]
            for info in known:
                tell(info)
            if all(info.ended for info in known):
                return known
            time.sleep(runner.look_seconds)


def _follow_log(runner: Runner, key: RunKey, out: Output) -> RunInfo:
    folder = runner.get(key).folder
    live = bool(folder) and sys.stderr.isatty() and not (out.quiet or out.as_json)
    with draw_bar(Path(folder) / "bar.json") if live else nullcontext():
        for line in runner.logs(key, follow=True, newest=True):
            # The error is told at the end, once; a line of JSON is the process's report to programs.
            if not line.startswith(("error:", "hint:", "{")):
                out.say(line)
    return runner.wait(key)


@contextmanager
def _leaving_it_alone(key: RunKey | None, runner: Runner, out: Output) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        words = runner.words
        if key is None:
            out.say(f"\nThe runs go on. Look again: tuneyard watch{words}")
        else:
            out.say(
                f"\nThe run {key} goes on. "
                f"Look again: tuneyard watch {key}{words}   Stop it: tuneyard stop {key}{words}"
            )
        raise


def describe(progress: RunProgress) -> str:
    """Say in a line how far training is.

    Args:
        progress: What its process last told.
    """
    if not (progress.step or progress.max_steps):
        return progress.phase
    parts = [f"step {progress.step} of {progress.max_steps}" if progress.max_steps else f"step {progress.step}"]
    if progress.max_steps:
        parts[0] += f" ({100 * progress.step / progress.max_steps:.0f} %)"
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.seconds_per_step and progress.step < progress.max_steps:
        slow = progress.seconds_per_step >= 1
        rate = f"{progress.seconds_per_step:.1f} s/step" if slow else f"{1 / progress.seconds_per_step:.1f} steps/s"
        parts.append(rate)
    if progress.seconds_left is not None and progress.step < progress.max_steps:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.phase and progress.phase != "training":
        parts.append(progress.phase)
    return ", ".join(parts)


def _lines(states: Iterator[RunInfo]) -> None:
    with _told_lines() as tell:
        for info in states:
            tell(info)


def _bar(states: Iterator[RunInfo]) -> None:
    with _bars() as tell:
        for info in states:
            tell(info)


Tell = Callable[[RunInfo], None]
"""Takes what is known of a run whenever it may have changed."""


def _ignore(info: RunInfo) -> None:
    del info


@contextmanager
def _told_lines() -> Generator[Tell]:
    told: dict[RunKey, tuple[float, str]] = {}

    def tell(info: RunInfo) -> None:
        at, last = told.get(info.key, (float("-inf"), ""))
        line = _state(info, describe(info.progress) if info.progress else "")
        now = time.monotonic()
        if line and line != last and (now - at >= LINE_EVERY_SECONDS or info.ended):
            print(f"{info.name}: {line}", file=sys.stderr, flush=True)
            told[info.key] = now, line

    yield tell


@contextmanager
def _bars() -> Generator[Tell]:
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    console = Console(stderr=True)
    narrow = console.width < _WIDE
    columns = [
        progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=20 if narrow else 53)),
        progress.BarColumn(bar_width=10 if narrow else 30),
        progress.TextColumn(
            "{task.fields[told]}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False
        ),
    ]
    with progress.Progress(*columns, console=console) as display:
        tasks: dict[RunKey, progress.TaskID] = {}

        def tell(info: RunInfo) -> None:
            if info.key not in tasks:
                tasks[info.key] = display.add_task(info.name, total=None, told="starting")
            far, task = info.progress, tasks[info.key]
            if far is None:
                display.update(task, told=_state(info, ""))
                return
            text = describe_shortly(far) if narrow else describe(far)
            total = far.max_steps or None
            display.update(task, completed=far.step, total=total, told=_state(info, text))

        yield tell


_WIDE = 120
"""Columns from which on a bar's line has room for everything."""


def _state(info: RunInfo, progress: str) -> str:
    """Say how far a run is, or what keeps it."""
    if info.status in ("queued", "failed", "stopped", "interrupted"):
        return info.status if not info.why else f"{info.status}: {info.why}"
    return progress or info.why


def describe_shortly(progress: RunProgress) -> str:
    """Say in 40 columns how far training is: steps, loss and time left.

    Args:
        progress: What its process last told.
    """
    if not progress.max_steps:
        return describe(progress)
    parts = [f"{progress.step}/{progress.max_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.seconds_left is not None and progress.step < progress.max_steps:
        parts.append(f"{duration(progress.seconds_left)} left")
    elif progress.phase and progress.phase != "training":
        parts.append(progress.phase)
    return "  ".join(parts)
