"""A report as one self-contained HTML page: no script, no link, no font, nothing fetched.

Text from the data is escaped by jinja2, and the page's content security policy lets nothing run. The same facts as
`show` prints on a terminal, with examples.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from tuneyard.data.conversations import printable
from tuneyard.data.report import DataReport
from tuneyard.data.show import count_rows, notes

if TYPE_CHECKING:
    from jinja2 import Template

_PROBLEMS = 200
_EXAMPLE_CHARACTERS = 6000
_BAR_HEIGHT = 22
_LABELS = 130
_PLOT = 560


def report_page(report: DataReport) -> str:
    """Format a report as a page: counts, the histogram of lengths, equal rows, problems, examples.

    Args:
        report: The report of `check`, with any requested examples.

    Returns:
        Self-contained HTML, in which text of the data is inert.
    """
    most = max((part.rows for part in report.histogram), default=1)
    bars = [
        {
            "label": f"{part.least:,}–{part.most:,}",
            "rows": part.rows,
            "width": max(round(_PLOT * part.rows / most, 1), 1 if part.rows else 0),
            "over": report.max_length is not None and part.least > report.max_length,
        }
        for part in report.histogram
    ]
    return _template().render(
        report=report,
        counts=count_rows(report),
        notes=notes(report),
        bars=bars,
        height=_BAR_HEIGHT,
        labels=_LABELS,
        plot=_PLOT,
        problems=report.problems[:_PROBLEMS],
        examples=[_shortened(example) for example in report.examples if example.segments],
    )


def _shortened(example: Any) -> tuple[Any, list[Any], int]:
    parts: list[Any] = []
    room = _EXAMPLE_CHARACTERS
    for part in example.segments:
        if room <= 0:
            break
        parts.append({"text": part.text[:room], "trained": part.learnt, "special": part.special})
        room -= len(part.text)
    return example, parts, sum(len(part.text) for part in example.segments) - sum(len(part["text"]) for part in parts)


@cache
def _template() -> Template:
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["shown"] = _shown
    return environment.from_string(resources.files("tuneyard.data").joinpath("page.html.jinja").read_text("utf-8"))


def _shown(text: str) -> str:
    return printable(text, keep="\n\t")
