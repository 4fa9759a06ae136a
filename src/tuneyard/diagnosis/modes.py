"""The modes that a store is used in: what each lets Tuneyard promise, and what it takes away.

A store that keeps every promise is used in mode `full`. One that breaks a promise others can do without is used in
degraded modes, each with its name; one that breaks what everything stands on is `unusable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FULL, DEGRADED, UNUSABLE = "full", "degraded", "unusable"


@dataclass(frozen=True, slots=True)
class Mode:
    """A degraded mode.

    Attributes:
        name: How it is called.
        loses: What Tuneyard no longer promises in it.
        still: What it still does.
    """

    name: str
    loses: str
    still: str


SINGLE_WRITER = Mode(
    "single-writer",
    "two launches of one run at the same time can both go on, and mix their checkpoints",
    "one launch at a time resumes exactly",
)
UNCHECKED_UPLOADS = Mode(
    "unchecked-uploads",
    "bytes damaged on their way up are kept by the server, and found only when they are read",
    "nothing damaged is ever trained on or served: every file is verified by SHA-256 when it is read",
)
LEFTOVER_PARTS = Mode(
    "leftover-parts",
    "parts of uploads that were broken off stay in the bucket, unseen and paid for",
    "everything else; a lifecycle rule that ends unfinished uploads removes them",
)


def mode_of(degraded: Iterable[Mode], *, unusable: bool) -> str:
    """Name what a store is used in: `full`, `degraded` or `unusable`.

    Args:
        degraded: The degraded modes it falls into.
        unusable: Whether it breaks what everything stands on.
    """
    return UNUSABLE if unusable else DEGRADED if list(degraded) else FULL
