"""The result of one check, and the report of all of them.

Plain values: nothing here checks anything. `local`, `kubernetes` and `store_probe` create them, `formatting` formats
them for people.
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
        UnavailableError,  # hides whatever else is wrong
        DeniedError,
        IntegrityError,
        NotFoundError,
        ConflictError,
        InvalidValuesError,
        UsageError,
        TuneyardError,
    )
)
"""The exit codes of a report, in order of precedence."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was checked, in a few words: `store`, `LocalQueue`.
        outcome: `ok`; `warning` where runs work with a restriction; `problem` where they fail; `skipped` where nothing
            was checked.
        found: What was found, one sentence without a full stop.
        advice: How to fix it: a command, or a sentence with its full stop; empty where there is nothing to fix.
        exit_code: The documented exit code of a problem; 0 for every other outcome.
    """

    name: str
    outcome: Outcome
    found: str
    advice: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a series of checks.

    Attributes:
        about: What was checked: `this machine`, a cluster, a store.
        checks: The results, in the order of the checks.
        facts: Further findings for programs, by key.
    """

    about: str
    checks: tuple[Check, ...]
    facts: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """The exit code of the worst problem (`WORST_FIRST`); 0 without one."""
        codes = {check.exit_code for check in self.checks if check.outcome == "problem"}
        return next((code for code in WORST_FIRST if code in codes), 0)

    def named(self, name: str) -> Check:
        """Return the check with a name.

        Raises:
            KeyError: No check has this name.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        return {
            "about": self.about,
            "exit_code": self.exit_code,
            **self.facts,
            "checks": [asdict(check) for check in self.checks],
        }


def ok(name: str, found: str) -> Check:
    """Create the result of a prerequisite that is met."""
    return Check(name, "ok", found)


def warning(name: str, found: str, advice: str = "") -> Check:
    """Create the result of a prerequisite that runs can do without."""
    return Check(name, "warning", found, advice)


def problem(name: str, found: str, advice: str, kind: type[TuneyardError] = NotFoundError) -> Check:
    """Create the result of a prerequisite that is not met.

    Args:
        name: What was checked.
        found: What was found.
        advice: How to fix it.
        kind: The error that a run would raise; it determines the exit code.
    """
    return Check(name, "problem", found, advice, kind.exit_code)


def skipped(name: str, reason: str) -> Check:
    """Create the result of a check that was not made."""
    return Check(name, "skipped", reason)


def from_error(name: str, error: TuneyardError, advice: str = "") -> Check:
    """Create a problem from the error that a check raised.

    Args:
        name: What was checked.
        error: The error.
        advice: How to fix it, for an error without a hint.
    """
    return Check(name, "problem", error.message.rstrip("."), error.hint or advice, error.exit_code)


def report(about: str, checks: Iterable[Check], **facts: Any) -> Report:
    """Create a report."""
    return Report(about, tuple(checks), facts)
