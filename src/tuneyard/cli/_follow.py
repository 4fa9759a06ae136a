"""What a terminal shows of a run while it works: its log, or for training a bar with loss and time left.

Looking on only: Ctrl-C ends the look, never the run. Off a terminal a bar becomes a line every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from tuneyard.cli._output import Output, duration
from tuneyard.progress import draw_bar
from tuneyard.runs import RunInfo, RunKey, Runner, RunProgress
from tuneyard.runs.watching import changes

LINE_EVERY_SECONDS = 10.0
_LOOK_SECONDS = 0.25


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
    with _leaving_it_alone(key, out):
        if key.verb != "finetune":
            return _follow_log(runner, key, out)
        if out.quiet or out.as_json:
            return runner.wait(key)
        show = _bar if sys.stderr.isatty() else _lines
        show(changes(runner, key, every_seconds=_LOOK_SECONDS))
    return runner.get(key)


def _follow_log(runner: Runner, key: RunKey, out: Output) -> RunInfo:
    live = sys.stderr.isatty() and not (out.quiet or out.as_json)
    with draw_bar(Path(runner.get(key).folder) / "bar.json") if live else nullcontext():
        for line in runner.logs(key, follow=True, newest=True):
            # The error is told at the end, once; a line of JSON is the process's report to programs.
            if not line.startswith(("error:", "hint:", "{")):
                out.say(line)
    return runner.wait(key)


@contextmanager
def _leaving_it_alone(key: RunKey, out: Output) -> Generator[None]:
    try:
        yield
    except KeyboardInterrupt:
        out.say(f"\nThe run {key} goes on. Look again: tuneyard watch {key}   Stop it: tuneyard stop {key}")
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
    told_at, told = float("-inf"), ""
    for info in states:
        line = describe(info.progress) if info.progress else ""
        now = time.monotonic()
        if line and line != told and (now - told_at >= LINE_EVERY_SECONDS or info.ended):
            print(f"{info.name}: {line}", file=sys.stderr, flush=True)
            told_at, told = now, line


def _bar(states: Iterator[RunInfo]) -> None:
    from rich import progress
    from rich.console import Console

    columns = [
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=30),
        progress.TextColumn("{task.fields[told]}"),
    ]
    with progress.Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task("starting", total=None, told="")
        for info in states:
            far = info.progress
            if far is not None:
                total = far.max_steps or None
                display.update(task, description=info.name, completed=far.step, total=total, told=describe(far))
