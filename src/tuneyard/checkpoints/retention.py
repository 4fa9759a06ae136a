"""Which checkpoints are kept and which may go: a pure decision over names.

It deletes nothing; `Attempt.prune` does, manifest first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tuneyard.checkpoints.head import CheckpointRef


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How many committed checkpoints stay in the bucket.

    Attributes:
        keep: The newest so many stay, besides the best; None keeps all. Less than 1 counts as 1.
    """

    keep: int | None


def to_prune(
    policy: RetentionPolicy,
    committed: Collection[CheckpointRef],
    *,
    protected: Collection[CheckpointRef],
    attempt: int,
) -> list[CheckpointRef]:
    """Choose the checkpoints that may go, oldest first.

    Args:
        policy: How many stay.
        committed: Every committed checkpoint that training could go on from.
        protected: Those that stay whatever their age: the best ones, and what HEAD names.
        attempt: The attempt that prunes; what a later one wrote is not its business.

    Returns:
        Checkpoints to delete; never the newest, never a protected one, never a later attempt's.
    """
    if policy.keep is None:
        return []
    newest_first = sorted(committed, reverse=True)
    aged = newest_first[max(1, policy.keep) :]
    return sorted(ref for ref in aged if ref not in protected and ref.attempt <= attempt)
