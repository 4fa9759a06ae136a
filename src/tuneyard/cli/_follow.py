"""The display of a running run: its log, or for training a bar with loss and time left.

Ctrl-C ends the display, never the run. Without a terminal, the bar becomes a line every few seconds.
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
from tuneyard.runners import RunInfo, RunKey, Runner, RunProgress, changes

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
        KeyboardInterrupt: On Ctrl-C, after a hint on how to follow it again.
    """
    with _detaching_on_interrupt(key, runner, out):
        if key.verb != "finetune":
            return _follow_log(runner, key, out)
        if out.quiet or out.as_json:
            return runner.wait(key)
        show = _bar if sys.stderr.isatty() else _lines
        show(changes(runner, key, every_seconds=runner.poll_seconds))
    return runner.get(key)


def follow_all(runner: Runner, out: Output) -> list[RunInfo]:
    """Show every active finetuning run, a bar each, until all of them have ended.

    Args:
        runner: Where they run.
        out: How this command prints.

    Returns:
        How they ended.

    Raises:
        NotFoundError: If none is active.
        KeyboardInterrupt: On Ctrl-C, after a hint on how to follow it again.
    """
    keys = [info.key for info in runner.list("finetune") if not info.ended]
    if not keys:
        raise NotFoundError("No active finetuning runs.", hint=f"List all runs: tuneyard runs{runner.options}")
    keys.reverse()  # the oldest first: newer ones mostly wait for it
    show = nullcontext(_ignore) if out.quiet or out.as_json else bars() if sys.stderr.isatty() else _logged_lines()
    with _detaching_on_interrupt(None, runner, out), show as update:
        while True:
            found = {info.key: info for info in runner.list("finetune")}
            known = [found[key] for key in keys if key in found]
            for info in known:
                update(info)
            if all(info.ended for info in known):
                return known
            time.sleep(runner.poll_seconds)


def _follow_log(runner: Runner, key: RunKey, out: Output) -> RunInfo:
    folder = runner.get(key).folder
    live = bool(folder) and sys.stderr.isatty() and not (out.quiet or out.as_json)
    with draw_bar(Path(folder) / "bar.json") if live else nullcontext():
        for line in runner.logs(key, follow=True, newest=True):
            # The error is printed once, at the end; a line of JSON is meant for programs.
            if not line.startswith(("error:", "hint:", "{")):
                out.note(line)
    return runner.wait(key)


@contextmanager
def _detaching_on_interrupt(key: RunKey | None, runner: Runner, out: Output) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        options = runner.options
        if key is None:
            out.note(f"\nThe runs continue. Follow them again: tuneyard watch{options}")
        else:
            out.note(
                f"\nThe run '{key}' continues. "
                f"Follow it again: tuneyard watch {key}{options}   Stop it: tuneyard stop {key}{options}"
            )
        raise


def describe(progress: RunProgress) -> str:
    """Describe the progress of training in one line.

    Args:
        progress: The last recorded progress.
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
    with _logged_lines() as update:
        for info in states:
            update(info)


def _bar(states: Iterator[RunInfo]) -> None:
    with bars() as update:
        for info in states:
            update(info)


Update = Callable[[RunInfo], None]
"""Called with a run's state whenever it may have changed."""


def _ignore(info: RunInfo) -> None:
    del info


@contextmanager
def _logged_lines() -> Generator[Update]:
    printed: dict[RunKey, tuple[float, str]] = {}

    def update(info: RunInfo) -> None:
        at, last = printed.get(info.key, (float("-inf"), ""))
        line = _state(info, describe(info.progress) if info.progress else "")
        now = time.monotonic()
        if line and line != last and (now - at >= LINE_EVERY_SECONDS or info.ended):
            print(f"{info.name}: {line}", file=sys.stderr, flush=True)
            printed[info.key] = now, line

    yield update


@contextmanager
def bars() -> Generator[Update]:
    """Draw a bar for each run on the terminal of standard error: its name, how far it is, and its state."""
    from rich import progress
    from rich.console import Console
    from rich.table import Column
    from rich.text import Text

    console = Console(stderr=True)
    narrow = console.width < _WIDE
    name_width, bar_width = (20, 10) if narrow else (53, 30)
    columns = [
        progress.TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=name_width)),
        progress.BarColumn(bar_width=bar_width),
        progress.TextColumn(
            "{task.fields[state]}", table_column=Column(no_wrap=True, overflow="ellipsis"), markup=False
        ),
    ]
    with progress.Progress(*columns, console=console) as display:
        tasks: dict[RunKey, progress.TaskID] = {}

        def update(info: RunInfo) -> None:
            if info.key not in tasks:
                tasks[info.key] = display.add_task(info.name, total=None, state="starting")
            state, task = info.progress, tasks[info.key]
            text = "" if state is None else describe_shortly(state) if narrow else describe(state)
            # rich would take the columns that a long state needs from the names
            names = min(name_width, max(len(key.name) for key in tasks))
            shown = Text(_state(info, text))
            shown.truncate(console.width - names - bar_width - 2, overflow="ellipsis")
            if state is None:
                display.update(task, state=shown.plain)
            else:
                display.update(task, completed=state.step, total=state.max_steps or None, state=shown.plain)

        yield update


_WIDE = 120
"""The least width, in columns, at which a bar's line shows everything."""


def _state(info: RunInfo, progress: str) -> str:
    """Return the progress of a run, or what it is waiting for."""
    if info.status in ("queued", "failed", "stopped", "interrupted"):
        return info.status if not info.why else f"{info.status}: {info.why}"
    return progress or info.why


def describe_shortly(progress: RunProgress) -> str:
    """Describe the progress of training in 40 columns: steps, loss and time left.

    Args:
        progress: The last recorded progress.
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
