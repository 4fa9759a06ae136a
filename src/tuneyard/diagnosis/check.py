"""What one look at a prerequisite gave, and what all of them say together.

Pure values: nothing here looks at anything. `local`, `kubernetes` and `store_probe` make them, `told` writes them for
people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tuneyard.errors import (
    ConflictError,
    DeniedError,
    IntegrityError,
    InvalidValuesError,
    NotFoundError,
    TuneyardError,
    UnavailableError,
    UsageError,
)

Outcome = Literal["ok", "warning", "problem", "skipped"]

WORST_FIRST: tuple[int, ...] = tuple(
    kind.exit_code
    for kind in (
        UnavailableError,  # nothing can be said of what lies behind it
        DeniedError,
        IntegrityError,
        NotFoundError,
        ConflictError,
        InvalidValuesError,
        UsageError,
        TuneyardError,
    )
)
"""The exit codes a report can end with, the one that wins over the others first."""


@dataclass(frozen=True, slots=True)
class Check:
    """One prerequisite and what was found of it.

    Attributes:
        name: What was looked at, in a few words: `store`, `LocalQueue`.
        outcome: `ok`; `warning` where work goes on with less than promised; `problem` where it can't; `skipped` where
            it was not looked at.
        found: What was found, one sentence without a full stop.
        advice: What to do about it: a command, or a sentence with its full stop; empty where there is nothing to do.
        exit_code: The documented code of a problem's kind; 0 for every other outcome.
    """

    name: str
    outcome: Outcome
    found: str
    advice: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Every check of one look.

    Attributes:
        about: What was looked at: `this machine`, a cluster, a store.
        checks: The checks, in the order they were made.
        facts: Further findings for programs, under named keys.
    """

    about: str
    checks: tuple[Check, ...]
    facts: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """The code of the worst problem (`WORST_FIRST`), 0 without one."""
        codes = {check.exit_code for check in self.checks if check.outcome == "problem"}
        return next((code for code in WORST_FIRST if code in codes), 0)

    def named(self, name: str) -> Check:
        """Give the check of a name.

        Raises:
            KeyError: No check has it.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Give the report as what JSON can hold."""
        return {
            "about": self.about,
            "exit_code": self.exit_code,
            **self.facts,
            "checks": [asdict(check) for check in self.checks],
        }


def ok(name: str, found: str) -> Check:
    """Make the check of a prerequisite that is met."""
    return Check(name, "ok", found)


def warning(name: str, found: str, advice: str = "") -> Check:
    """Make the check of a prerequisite that work can go on without."""
    return Check(name, "warning", found, advice)


def problem(name: str, found: str, advice: str, kind: type[TuneyardError] = NotFoundError) -> Check:
    """Make the check of a prerequisite that is not met.

    Args:
        name: What was looked at.
        found: What was found.
        advice: What to do about it.
        kind: The error that work would meet; it gives the exit code.
    """
    return Check(name, "problem", found, advice, kind.exit_code)


def skipped(name: str, why: str) -> Check:
    """Make the check of what was not looked at."""
    return Check(name, "skipped", why)


def of_error(name: str, error: TuneyardError) -> Check:
    """Make a problem of an error that a look ended with."""
    return Check(name, "problem", error.message.rstrip("."), error.hint, error.exit_code)


def report(about: str, checks: Iterable[Check], **facts: Any) -> Report:
    """Join checks to a report."""
    return Report(about, tuple(checks), facts)
