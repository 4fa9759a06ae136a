"""Whether a run fits, and whether it does on this machine. A cluster's capacity is for the runner that can read it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SMALLER = "Make it smaller: max_per_device_train_batch_size, max_seq_length, or an adapter."
"""The hint where memory is short."""


@dataclass(frozen=True)
class Verdict:
    """Whether a run fits, and why.

    Attributes:
        fits: `yes`, `never`, `not now`, or `unknown`.
        sentence: The same as a sentence.
        hint: What to do if it does not fit; empty otherwise.
    """

    fits: str
    sentence: str
    hint: str = ""


def fits_here(needed: int, *, accelerators: bool) -> Verdict:
    """Compare a run's memory with this machine's.

    Args:
        needed: Bytes of all its processes together.
        accelerators: Whether it trains on accelerators, whose memory is not known here.
    """
    if accelerators:
        sentence = "It needs accelerators, whose memory is not known here; each needs the memory shown above."
        return Verdict("unknown", sentence)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = min(whole, _cgroup_limit() or whole)
    free = min(_available() or limit, limit)
    if needed > limit:
        sentence = f"It does not fit: it needs {gib(needed)}, and this machine has {gib(limit)}."
        return Verdict("never", sentence, SMALLER)
    if needed > free:
        sentence = f"It fits, but not at present: it needs {gib(needed)}, and {gib(free)} of {gib(limit)} are free."
        return Verdict("not now", sentence, f"Stop other programs. {SMALLER}")
    return Verdict("yes", f"It fits: it needs {gib(needed)}, and {gib(free)} of this machine's {gib(limit)} are free.")


def gib(size: float) -> str:
    """Write a size for people."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


def _available() -> int | None:
    try:
        with Path("/proc/meminfo").open(encoding="ascii") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable")), None)
    except OSError:
        return None  # not Linux


def _cgroup_limit() -> int | None:
    try:
        with Path("/sys/fs/cgroup/memory.max").open(encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
