"""The report of a delivery."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["delivered", "replaced", "unchanged"]
"""`delivered`: nothing was there. `replaced`: other content was. `unchanged`: the same content was already there."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One delivered model or dataset.

    Attributes:
        key: The model's or dataset's key.
        status: What was done.
        source: The source, for messages.
        content_sha256: The manifest's hash over all files; equal if and only if the content is equal.
        files: The number of its files.
        size: Their size in bytes.
        transferred_files: The number of files that this call transferred.
        transferred_bytes: Their size in bytes.
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
    """What a delivery did.

    Attributes:
        store: The store's URL.
        model: The model; None where the values name none.
        datasets: Each dataset that the `dataScript` writes, sorted by key.
        script: `run`; `skipped` where all its datasets are already delivered; `none` where the values have none.
    """

    store: str
    model: Delivered | None = None
    datasets: tuple[Delivered, ...] = ()
    script: Literal["run", "skipped", "none"] = "none"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return asdict(self)
