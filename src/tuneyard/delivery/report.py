"""What a delivery did, as data, and how it speaks to a person meanwhile: lines on standard error, never on output."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["delivered", "replaced", "unchanged"]
"""`delivered`: it was not there. `replaced`: something else was. `unchanged`: the same content was there already."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One model or one file of data, and what was done for it.

    Attributes:
        key: Where it is: a model's prefix, or the key of a file of data.
        status: What was done.
        source: Where it came from, in words.
        content_sha256: The manifest's hash over all files; equal exactly where the content is equal.
        files: How many files it has.
        size: Their bytes.
        transferred_files: How many of them were transferred by this call.
        transferred_bytes: Their bytes.
        left_out: Files of the source that were not delivered, sorted.
    """

    key: str
    status: Status
    source: str
    content_sha256: str
    files: int
    size: int
    transferred_files: int = 0
    transferred_bytes: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliverReport:
    """What a whole delivery did.

    Attributes:
        store: The store's URL.
        model: The model; None where the values name none.
        datasets: Each file that the data script makes, sorted by key.
        script: `run`, `skipped` where everything it makes is there already, `none` where the values have no script.
    """

    store: str
    model: Delivered | None = None
    datasets: tuple[Delivered, ...] = ()
    script: Literal["run", "skipped", "none"] = "none"

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return asdict(self)


def tell(sentence: str) -> None:
    """Say something to the person who watches, on standard error."""
    print(sentence, file=sys.stderr, flush=True)
