"""Records every `fsync` of this process: no test can cut the power, but it can check the order of calls.

Each call is made, and recorded with what was readable at a watched path at that moment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Synced:
    """One call of `fsync`.

    Attributes:
        path: What was synced.
        size: Its size then.
        visible: What could be read at the watched path then; None where there was nothing.
    """

    path: Path
    size: int
    visible: bytes | None


def note_syncs(monkeypatch: pytest.MonkeyPatch, target: Path) -> list[Synced]:
    """Record every `fsync` of this process from now on in the list that is returned.

    Args:
        monkeypatch: Restores `os.fsync`.
        target: The watched path.
    """
    noted: list[Synced] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115  (no path of ours)
        visible = target.read_bytes() if target.exists() else None
        noted.append(Synced(path, os.fstat(descriptor).st_size, visible))

    monkeypatch.setattr(os, "fsync", fsync)
    return noted
