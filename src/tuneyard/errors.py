"""Every error that Tuneyard raises for its users, with the exit code of a command that ends on it.

    TuneyardError                 1   an internal error
    ├── UsageError                2   options or arguments are wrong              (ValueError)
    ├── InvalidValuesError        3   values that are not allowed                 (ValueError)
    ├── InvalidDataError          3   rows or files of data that can't be used    (ValueError)
    │   └── IncompleteModelError      a model's files don't hold the weights that its config names
    ├── DivergedError             3   a loss or a gradient is not a finite number (ArithmeticError)
    ├── NotFoundError             4   an object, run, model or file is missing    (LookupError)
    ├── DeniedError               5   credentials are missing, wrong or too weak  (PermissionError)
    ├── ConflictError             6   the existing state differs from what is requested
    │   ├── AlreadyExistsError        a conditional create found an object
    │   ├── ChangedError              a conditional replace found another version
    │   └── LostOwnershipError        another attempt has taken the run over
    ├── IntegrityError            7   bytes differ from their manifest
    ├── RunEndedError                 a run did not succeed; with the run's exit code (`runners.waiting`)
    └── UnavailableError          8   a server, device or lock is not available now; retryable  (ConnectionError)
        ├── AcceleratorMissingError   a requested accelerator is missing
        └── FullError                 a disk or bucket is full

130 (interrupted) and 143 (terminated by SIGTERM) are ends of a process, not errors: `INTERRUPTED` and `TERMINATED`.

A message is one sentence: what happened, where, and the value. The hint is the next step, usually a command.
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
    """The base of every error that users can get.

    Args:
        message: One sentence: what happened, where, and the value.
        hint: What to do next; may be empty.
        details: The facts of the message as data, for programs and `--json` output.
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
    """Raised when options or arguments are invalid or contradict each other."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of values or data.

    Attributes:
        where: A dotted path of the values (`finetuning_config.peft_conf.peft_kwargs.r`) or `file:line` of data.
        what: What is wrong with it.
        value: The given value, as text; empty where it is missing.
        allowed: What is allowed; may be empty.
        suggestion: What was probably intended; may be empty.
    """

    where: str
    what: str
    value: str = ""
    allowed: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}"
        if self.value:
            text += f" (given: {_quoted(self.value)})"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        if self.suggestion:
            text += f"; did you mean {self.suggestion}?"
        return text


def _quoted(value: str) -> str:
    return value if value[0] in "'\"" else f"'{value}'"


class _ProblemsError(TuneyardError, ValueError):
    """Carries every problem, so that all are reported at once."""

    exit_code = 3

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems, in the order they were found."""
        return tuple(self.details.get("problems", ()))

    def __str__(self) -> str:
        listed = [text for text in map(str, self.problems) if text not in self.message]
        return "\n  ".join([self.message, *listed])


class InvalidValuesError(_ProblemsError):
    """Raised when values are misspelt, of the wrong type, out of range or contradict each other.

    Pass every problem as `problems=[...]`.
    """


class InvalidDataError(_ProblemsError):
    """Raised when rows or files of data can't be used. Pass every problem as `problems=[...]`."""


class IncompleteModelError(InvalidDataError):
    """Raised when a model's files lack a weight, or hold one that is unexpected or of another shape."""


class DivergedError(TuneyardError, ArithmeticError):
    """Raised when a loss, an evaluation or the norm of the gradients is not a finite number, so that training ends."""

    exit_code = 3


class NotFoundError(TuneyardError, LookupError):
    """Raised when an object, bucket, run, model or file does not exist."""

    exit_code = 4


class DeniedError(TuneyardError, PermissionError):
    """Raised when credentials are missing, wrong, expired or too weak."""

    exit_code = 5


class ConflictError(TuneyardError):
    """Raised when the existing state differs from what is requested; nothing was changed."""

    exit_code = 6


class AlreadyExistsError(ConflictError):
    """Raised when a conditional create finds an object under its key."""


class ChangedError(ConflictError):
    """Raised when a conditional replace finds another version than expected."""


class LostOwnershipError(ConflictError):
    """Raised when another attempt has taken the run over; this one may write nothing more."""


class IntegrityError(TuneyardError):
    """Raised when bytes are missing or differ from the manifest that names them."""

    exit_code = 7


class UnavailableError(TuneyardError, ConnectionError):
    """Raised when a server, device or lock is not available in time; a retry may help."""

    exit_code = 8


class AcceleratorMissingError(UnavailableError):
    """Raised when this machine has fewer accelerators than requested."""


class FullError(UnavailableError):
    """Raised when a disk or bucket is full; waiting does not help."""


_KINDS = (UsageError, InvalidValuesError, NotFoundError, DeniedError, ConflictError, IntegrityError, UnavailableError)


def error_of(exit_code: int) -> type[TuneyardError]:
    """Return the error class of another process's exit code; the base where none has it.

    Args:
        exit_code: The process's exit code.
    """
    return next((kind for kind in _KINDS if kind.exit_code == exit_code), TuneyardError)


@contextmanager
def cleaning_up(clean: Callable[[], None]) -> Generator[None]:
    """Clean up when the block ends in any way; the block's own error takes precedence over one of the cleanup."""
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
