"""One listing of an experiment, sorted into committed checkpoints and leftovers.

A checkpoint without a manifest exists only for `Attempt.prune`. Objects are neither read nor verified here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneyard.checkpoints.head import CheckpointRef, Head
from tuneyard.store import Store


@dataclass(frozen=True, slots=True)
class Survey:
    """One listing of an experiment.

    Attributes:
        committed: Every checkpoint with a manifest, newest first.
        keys: The keys of all objects of each checkpoint, committed or not.
    """

    committed: tuple[CheckpointRef, ...]
    keys: dict[CheckpointRef, tuple[str, ...]]

    def lineage(self, head: Head | None) -> tuple[CheckpointRef, ...]:
        """Return the checkpoints that training may resume from, newest first.

        These are all committed ones that no later attempt has superseded, and the one that HEAD names, even without its
        manifest: that is damage, not a fresh start.
        """
        if head is None:
            return self.committed
        refs = {ref for ref in self.committed if not head.supersedes(ref)}
        if head.checkpoint and not head.supersedes(head.checkpoint):
            refs.add(head.checkpoint)
        return tuple(sorted(refs, reverse=True))


def survey_experiment(store: Store, prefix: str) -> Survey:
    """List an experiment.

    Args:
        store: The store.
        prefix: Its key, without a trailing `/`.

    Raises:
        UnavailableError: The store can't be reached, which is never taken for an empty one.
        DeniedError: It denies access.
    """
    keys: dict[CheckpointRef, list[str]] = {}
    committed: list[CheckpointRef] = []
    for info in store.list(f"{prefix}/"):
        name = info.key[len(prefix) + 1 :].partition("/")[0]
        ref = CheckpointRef.from_name(prefix, name)
        if ref is None:
            continue
        keys.setdefault(ref, []).append(info.key)
        if info.key == ref.manifest_key:
            committed.append(ref)
    return Survey(
        committed=tuple(sorted(committed, reverse=True)), keys={ref: tuple(found) for ref, found in keys.items()}
    )
