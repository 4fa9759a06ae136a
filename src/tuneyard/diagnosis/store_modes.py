"""The modes that a store can be used in, and what each of them guarantees.

A store that meets every requirement is used in mode `full`. One that fails a requirement which Tuneyard can do without
is used in one or more degraded modes; one that fails any other is `unusable`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FULL, DEGRADED, UNUSABLE = "full", "degraded", "unusable"


@dataclass(frozen=True, slots=True)
class Mode:
    """A degraded mode.

    Attributes:
        name: Its name.
        loses: The guarantee that is lost.
        still: The guarantee that remains.
    """

    name: str
    loses: str
    still: str


SINGLE_WRITER = Mode(
    "single-writer",
    "two concurrent launches of one run may both continue and mix their checkpoints",
    "a single launch resumes exactly",
)
UNCHECKED_UPLOADS = Mode(
    "unchecked-uploads",
    "data corrupted during upload is stored, and detected only when it is read",
    "corrupted data is never trained on or served: the SHA-256 of every file is verified on read",
)
LEFTOVER_PARTS = Mode(
    "leftover-parts",
    "parts of aborted uploads remain in the bucket, hidden but billed",
    "all other guarantees hold; a lifecycle rule that aborts incomplete uploads removes the parts",
)


def overall_mode(degraded: Iterable[Mode], *, unusable: bool) -> str:
    """Return the mode of a store: `full`, `degraded` or `unusable`.

    Args:
        degraded: The degraded modes that apply.
        unusable: Whether the store fails a requirement that Tuneyard can't do without.
    """
    return UNUSABLE if unusable else DEGRADED if list(degraded) else FULL
