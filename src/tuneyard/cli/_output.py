"""The one sink for everything a command prints.

Data goes to stdout: as text for people, or with `--json` as one versioned document for programs. Notes go to stderr,
unless `--quiet`. Colour and boxes are for terminals only; `NO_COLOR` is respected.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tuneyard.terminal import shows_unicode

if TYPE_CHECKING:
    from rich.console import RenderableType

SCHEMA = 1
"""The version of every JSON document printed; increased when one changes other than by new keys."""


@dataclass(frozen=True, slots=True)
class Output:
    """How this command prints.

    Attributes:
        as_json: Whether data is printed as JSON.
        quiet: Whether notes are left out.
    """

    as_json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.quiet:
            logging.getLogger("tuneyard").setLevel(logging.WARNING)

    def data(self, document: Mapping[str, Any], human: RenderableType | str | None = None) -> None:
        """Print a command's result: the document with `--json`, else the form for people.

        Args:
            document: The result under named keys; `schema` is added.
            human: The form for people; text is printed as it is, None prints nothing.
        """
        if self.as_json:
            self.document({"schema": SCHEMA, **document})
        elif isinstance(human, str):
            print(human)
        elif human is not None:
            self._show(human)

    def document(self, document: Mapping[str, Any]) -> None:
        """Print a JSON document as it is, without `schema`.

        Args:
            document: JSON-ready data.
        """
        print(json.dumps(document, indent=2, ensure_ascii=not shows_unicode(sys.stdout)))

    def line(self, text: str) -> None:
        """Print one line of a stream, such as a log, on stdout at once."""
        print(text, flush=True)

    def note(self, text: str) -> None:
        """Print a note for people on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def _show(self, human: RenderableType) -> None:
        from rich.console import Console

        # Without a terminal, nothing is cut to an assumed width.
        width = None if sys.stdout.isatty() else 1000
        Console(width=width, highlight=False, soft_wrap=not sys.stdout.isatty()).print(human)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay rows out under headings as plain text; the last column is not padded.

    Args:
        columns: The headings.
        rows: The cells.
    """
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def duration(seconds: float) -> str:
    """Format a duration for people: `8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
