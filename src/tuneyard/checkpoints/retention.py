"""Which checkpoints are kept and which are deleted: a pure decision over names.

`Attempt.prune` deletes them, manifests first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tuneyard.checkpoints.head import CheckpointRef


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How many committed checkpoints are kept in the bucket.

    Attributes:
        keep: The number of newest checkpoints to keep, besides the best; None keeps all. Less than 1 counts as 1.
    """

    keep: int | None


def to_prune(
    policy: RetentionPolicy,
    committed: Collection[CheckpointRef],
    *,
    protected: Collection[CheckpointRef],
    attempt: int,
) -> list[CheckpointRef]:
    """Select the checkpoints to delete, oldest first.

    Args:
        policy: How many are kept.
        committed: Every committed checkpoint that training could resume from.
        protected: Checkpoints that are kept at any age: the best ones, and those that HEAD names.
        attempt: The attempt that prunes; checkpoints of later ones are kept.

    Returns:
        Checkpoints to delete: never the newest, a protected one or a later attempt's.
    """
    if policy.keep is None:
        return []
    newest_first = sorted(committed, reverse=True)
    aged = newest_first[max(1, policy.keep) :]
    return sorted(ref for ref in aged if ref not in protected and ref.attempt <= attempt)
