"""Answers on a terminal: one as it comes, or two side by side (below one another where it is narrow)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

SIDE_BY_SIDE_COLUMNS = 80
"""From this width on, two answers stand side by side."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Take out what would steer the terminal instead of being read; a model may write anything.

    Args:
        text: A piece of an answer.
    """
    return _CONTROL.sub("", text)


def write(console: Console, text: str) -> None:
    """Write a piece of an answer as it comes, without markup and without breaking lines anew."""
    console.print(printable(text), end="", markup=False, highlight=False, emoji=False, soft_wrap=True)


def two_answers(answers: Mapping[str, str], *, width: int) -> RenderableType:
    """Lay out answers under their models' names.

    Args:
        answers: Text by name, in the order to show.
        width: Columns of the terminal.

    Returns:
        Something rich can print, or refresh while the answers grow.
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
