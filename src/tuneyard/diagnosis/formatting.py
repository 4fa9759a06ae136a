"""A report as text for people: one line per check, then every warning and problem with its fix."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from tuneyard.diagnosis.check import Check, Report

_WIDTH = 80
_LABELS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM", "skipped": "skipped"}


def format_report(report: Report) -> str:
    """Format a report for people, 80 columns wide. Advice without a full stop is a command, and is never wrapped.

    Args:
        report: The report.
    """
    name_width = max((len(check.name) for check in report.checks), default=0)
    lines = [_line(check, name_width) for check in report.checks]
    for outcome, heading in (("warning", "Warnings"), ("problem", "Problems")):
        found = [check for check in report.checks if check.outcome == outcome]
        if found:
            lines += ["", f"{heading}:", *_with_advice(found)]
    lines += ["", *_summary(report)]
    return "\n".join(lines)


def _line(check: Check, name_width: int) -> str:
    start = f"{_LABELS[check.outcome]:8}{check.name:{name_width}}  "
    return _wrap(check.found, start, " " * len(start))


def _with_advice(checks: Iterable[Check]) -> list[str]:
    lines: list[str] = []
    for check in checks:
        lines.append(_wrap(f"{check.name}: {check.found}", "  ", "    "))
        if check.advice:
            is_command = not check.advice.endswith(".")
            lines.append(f"    -> {check.advice}" if is_command else _wrap(check.advice, "    -> ", "       "))
    return lines


def _wrap(text: str, first_indent: str, indent: str) -> str:
    # a word longer than a line (a URL, a path) is never broken
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first_indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(report: Report) -> list[str]:
    counts = {
        outcome: sum(check.outcome == outcome for check in report.checks)
        for outcome in ("ok", "warning", "problem", "skipped")
    }
    totals = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    lines = [_wrap(f"{report.about}: {totals}", "", "  ")]
    if mode := report.facts.get("mode"):
        degraded: list[dict[str, str]] = report.facts["degraded"]
        names = f" ({', '.join(one['name'] for one in degraded)})" if degraded else ""
        lines.append(f"mode: {mode}{names}")
        lines += [_wrap(f"{one['name']}: {one['loses']}; {one['still']}", "  ", "    ") for one in degraded]
    return lines
