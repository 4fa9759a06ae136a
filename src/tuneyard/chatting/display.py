"""Answers on a terminal: one as it arrives, or two side by side (below one another where it is narrow)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SIDE_BY_SIDE_COLUMNS = 80
"""The least width, in columns, to show two answers side by side."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Remove control characters, which a model may write to steer the terminal.

    Args:
        text: A piece of an answer.
    """
    return _CONTROL.sub("", text)


def write(console: Console, text: str) -> None:
    """Write a piece of an answer as it is, without markup and line wrapping."""
    console.print(printable(text), end="", markup=False, highlight=False, emoji=False, soft_wrap=True)


def two_answers(answers: Mapping[str, str], *, width: int) -> RenderableType:
    """Lay out answers under their models' names.

    Args:
        answers: Text by name, in the order to show.
        width: Columns of the terminal.

    Returns:
        A renderable to print, or to refresh while the answers grow.
    """
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if width < SIDE_BY_SIDE_COLUMNS:
        stacked = Table.grid(expand=True)
        for name, text in answers.items():
            stacked.add_row(Panel(Text(printable(text)), title=Text(name), title_align="left", box=box.ROUNDED))
        return stacked
    table = Table(box=box.ROUNDED, expand=True)
    for name in answers:
        table.add_column(Text(name, overflow="ellipsis", no_wrap=True), ratio=1)
    table.add_row(*(Text(printable(text)) for text in answers.values()))
    return table


def in_turn(answers: Mapping[str, str]) -> str:
    """Write answers below one another as plain text, for a file or a pipe.

    Args:
        answers: Text by name.
    """
    return "\n\n".join(f"## {name}\n\n{printable(text).strip()}" for name, text in answers.items())
