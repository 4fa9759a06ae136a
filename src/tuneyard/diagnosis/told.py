"""A report for people: one line a check, and at the end each thing that is wrong with what to do about it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from tuneyard.diagnosis.check import Check, Report

_WIDTH = 80
_SIGNS = {"ok": "ok", "warning": "warning", "problem": "PROBLEM", "skipped": "skipped"}


def told(report: Report) -> str:
    """Write a report for people, 80 columns wide. Advice without a full stop is a command, and stays whole.

    Args:
        report: What was found.
    """
    names = max((len(check.name) for check in report.checks), default=0)
    lines = [_line(check, names) for check in report.checks]
    for outcome, heading in (("warning", "Warnings"), ("problem", "Problems")):
        found = [check for check in report.checks if check.outcome == outcome]
        if found:
            lines += ["", f"{heading}:", *_with_advice(found)]
    lines += ["", *_sum(report)]
    return "\n".join(lines)


def _line(check: Check, names: int) -> str:
    start = f"{_SIGNS[check.outcome]:8}{check.name:{names}}  "
    return _wrapped(check.found, start, " " * len(start))


def _with_advice(checks: Iterable[Check]) -> list[str]:
    lines: list[str] = []
    for check in checks:
        lines.append(_wrapped(f"{check.name}: {check.found}", "  ", "    "))
        if check.advice:
            command = not check.advice.endswith(".")
            lines.append(f"    -> {check.advice}" if command else _wrapped(check.advice, "    -> ", "       "))
    return lines


def _wrapped(text: str, first: str, other: str) -> str:
    # a word that is longer than a line (a URL, a path) stays whole
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=other,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sum(report: Report) -> list[str]:
    counts = {
        outcome: sum(check.outcome == outcome for check in report.checks)
        for outcome in ("ok", "warning", "problem", "skipped")
    }
    words = ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number)
    lines = [_wrapped(f"{report.about}: {words}", "", "  ")]
    if mode := report.facts.get("mode"):
        modes: list[dict[str, str]] = report.facts["degraded"]
        names = f" ({', '.join(one['name'] for one in modes)})" if modes else ""
        lines.append(f"mode: {mode}{names}")
        lines += [_wrapped(f"{one['name']}: {one['loses']}; {one['still']}", "  ", "    ") for one in modes]
    return lines
