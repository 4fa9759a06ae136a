"""Every error that Tuneyard raises for its users, with the exit code each one ends a command with.

    TuneyardError                 1   something in Tuneyard itself went wrong
    ├── UsageError                2   the command line's words are off            (ValueError)
    ├── InvalidValuesError        3   values that are not allowed                 (ValueError)
    ├── InvalidDataError          3   rows or files of data that can't be used    (ValueError)
    │   └── IncompleteModelError      a model's files don't hold the weights that its config names
    ├── DivergedError             3   a loss or a gradient is not a finite number (ArithmeticError)
    ├── NotFoundError             4   an object, run, model or file is not there  (LookupError)
    ├── DeniedError               5   credentials are missing, wrong or too weak  (PermissionError)
    ├── ConflictError             6   what is there differs from what was asked
    │   ├── AlreadyExistsError        a conditional create found an object
    │   ├── ChangedError              a conditional replace found another version
    │   └── LostOwnershipError        another attempt has taken the run over
    ├── IntegrityError            7   bytes differ from what their manifest says
    └── UnavailableError          8   a server, device or lock can't be had now; retryable  (ConnectionError)
        ├── AcceleratorMissingError   an accelerator was asked for and is not there
        └── FullError                 a disk or bucket has no room left

130 (interrupted) and 143 (terminated by SIGTERM) are ends of a process, not errors: `INTERRUPTED` and `TERMINATED`.

A message is one sentence: what, where and the value. The hint is the next thing to do, usually a command.
This module sits at the bottom: it imports nothing of Tuneyard.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

INTERRUPTED = 130
TERMINATED = 143


class TuneyardError(Exception):
    """Raised when Tuneyard can't go on; the base of every error a user can meet.

    Args:
        message: One sentence with what, where and the value.
        hint: What to do next, or an empty string.
        details: The facts of the message as data, for programs; they appear in `--json` output.
    """

    exit_code: int = 1
    """What a process that ends on this error returns; the class's own, unless an error carries another process's."""

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.details)


def _rebuild(kind: type[TuneyardError], message: str, hint: str, details: dict[str, Any]) -> TuneyardError:
    return kind(message, hint=hint, **details)


class UsageError(TuneyardError, ValueError):
    """Raised when options or arguments don't fit together."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with values or data.

    Attributes:
        where: A dotted path of the values (`finetuning_config.peft_conf.peft_kwargs.r`) or `file:line` of data.
        what: What is wrong with it, in words.
        value: The value given, as text; empty when the point is that it's missing.
        allowed: What is allowed there, in words; may be empty.
        suggestion: What was probably meant; may be empty.
    """

    where: str
    what: str
    value: str = ""
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.value:
            text += f" (given: {self.value})"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.suggestion:
            text += f"; did you mean {self.suggestion}?"
        return text


class _ProblemsError(TuneyardError, ValueError):
    """Carries every problem found, so that all of them are told at once."""

    exit_code = 3

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems found, in the order they were met."""
        return tuple(self.details.get("problems", ()))

    def __str__(self) -> str:
        told = [text for text in map(str, self.problems) if text not in self.message]
        return "\n  ".join([self.message, *told])


class InvalidValuesError(_ProblemsError):
    """Raised when values are misspelt, of the wrong type, out of range or contradict each other.

    Pass every problem found as `problems=[...]`.
    """


class InvalidDataError(_ProblemsError):
    """Raised when rows or files of data can't be used as they are. Pass every problem found as `problems=[...]`."""


class IncompleteModelError(InvalidDataError):
    """Raised when a model's files lack a weight, hold one that it hasn't, or one of another shape."""


class DivergedError(TuneyardError, ArithmeticError):
    """Raised when a loss, an evaluation or the norm of the gradients is not a finite number, so that training ends."""

    exit_code = 3


class NotFoundError(TuneyardError, LookupError):
    """Raised when an object, bucket, run, model or file is not there, while its place could be asked."""

    exit_code = 4


class DeniedError(TuneyardError, PermissionError):
    """Raised when credentials are missing, wrong, expired or too weak."""

    exit_code = 5


class ConflictError(TuneyardError):
    """Raised when what is already there differs from what was asked for, and nothing was changed."""

    exit_code = 6


class AlreadyExistsError(ConflictError):
    """Raised when a conditional create finds an object under its key."""


class ChangedError(ConflictError):
    """Raised when a conditional replace finds another version than the one it was to replace."""


class LostOwnershipError(ConflictError):
    """Raised when another attempt has taken the run over; nothing more may be written for it."""


class IntegrityError(TuneyardError):
    """Raised when bytes are missing or differ from what the manifest that names them says."""

    exit_code = 7


class UnavailableError(TuneyardError, ConnectionError):
    """Raised when a server, device or lock can't be reached or had in time; trying again may help."""

    exit_code = 8


class AcceleratorMissingError(UnavailableError):
    """Raised when an accelerator was asked for and this machine has none, or fewer."""


class FullError(UnavailableError):
    """Raised when a disk or a bucket has no room left; waiting alone does not help."""


_KINDS = (UsageError, InvalidValuesError, NotFoundError, DeniedError, ConflictError, IntegrityError, UnavailableError)


def error_of(exit_code: int) -> type[TuneyardError]:
    """Give the kind of error that another process has ended with, by its exit code; the base where none has it.

    Args:
        exit_code: The process's exit code.
    """
    return next((kind for kind in _KINDS if kind.exit_code == exit_code), TuneyardError)


@contextmanager
def cleaning_up(clean: Callable[[], None]) -> Generator[None]:
    """Clean up however the block ends; of two errors of ours, the block's own is told."""
    try:
        yield
    except TuneyardError:
        with suppress(TuneyardError):
            clean()
        raise
    except BaseException:
        clean()
        raise
    else:
        clean()
