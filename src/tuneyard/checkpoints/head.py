"""HEAD: which attempt owns an experiment, and the newest checkpoint that it committed.

HEAD changes only by compare-and-swap, so two attempts never both own the experiment, and no two bodies of it are equal
(each has a nonce), since equal bytes have equal ETags. Manifests, not HEAD, define what is complete; HEAD defines who
may write, and which checkpoints are expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random

from tuneyard.checkpoints.seal import damaged, from_sealed_json, to_sealed_json
from tuneyard.errors import AlreadyExistsError, ChangedError, IntegrityError, NotFoundError
from tuneyard.store import Store, place_of_result
from tuneyard.whereabouts import installation

FORMAT = 1
"""The version of HEAD's JSON form."""

SWAP_TRIES = 100
"""How often a swap is retried; of N contenders one wins each round, so N rounds are enough."""

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, order=True)
class CheckpointRef:
    """Names one checkpoint of an experiment; a newer one is greater.

    Attributes:
        step: The optimizer steps done when it was saved.
        attempt: The attempt that wrote it.
        key: Its key, `<prefix>/checkpoint-<step>-<attempt>`.
    """

    step: int
    attempt: int
    key: str

    @classmethod
    def at(cls, prefix: str, step: int, attempt: int) -> CheckpointRef:
        """Return the reference to the checkpoint of a step and an attempt under an experiment's prefix."""
        return cls(step=step, attempt=attempt, key=f"{prefix}/checkpoint-{step}-{attempt}")

    @classmethod
    def from_name(cls, prefix: str, name: str) -> CheckpointRef | None:
        """Parse `checkpoint-<step>-<attempt>`; None for any other name (`checkpoint-final`)."""
        match = _CHECKPOINT.fullmatch(name)
        return cls.at(prefix, int(match[1]), int(match[2])) if match else None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return f"checkpoint-{self.step}-{self.attempt}"

    @property
    def manifest_key(self) -> str:
        """The key of its manifest."""
        return place_of_result(self.key, "checkpoint").manifest_key

    def to_facts(self) -> dict[str, Any]:
        """Return plain JSON values, with the key without its prefix, so that a copied experiment stays valid."""
        return {"step": self.step, "attempt": self.attempt, "key": self.name}


def ref_from_facts(prefix: str, facts: Mapping[str, Any] | None) -> CheckpointRef | None:
    """Parse what `CheckpointRef.to_facts` returned; None stays None.

    Raises:
        IntegrityError: Step or attempt is not a valid number; its key and its folder are derived from them.
    """
    if facts is None:
        return None
    try:
        numbers = [facts["step"], facts["attempt"]]
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(prefix) from error
    ref = CheckpointRef.from_name(prefix, "checkpoint-{}-{}".format(*numbers))
    if ref is None or [ref.step, ref.attempt] != numbers:
        raise damaged(prefix)
    return ref


@dataclass(frozen=True, slots=True)
class Start:
    """The start of an attempt, which supersedes everything that earlier attempts did after that step.

    Attributes:
        attempt: The attempt's number.
        from_step: The step of the checkpoint that it resumed from; 0 for a fresh start.
    """

    attempt: int
    from_step: int


@dataclass(frozen=True, slots=True)
class Head:
    """The contents of HEAD.

    Attributes:
        attempt: The number of the attempt that owns the experiment.
        owner: A random name of that attempt.
        fingerprint: The settings that must not change within the experiment; flat, plain JSON values.
        checkpoint: The newest committed checkpoint.
        best: The best committed checkpoint, where the training selects one.
        finished: Whether `checkpoint-final` was published.
        history: The start of each attempt.
        nonce: Makes every body unique.
    """

    attempt: int
    owner: str
    fingerprint: Mapping[str, Any]
    checkpoint: CheckpointRef | None = None
    best: CheckpointRef | None = None
    finished: bool = False
    history: tuple[Start, ...] = ()
    nonce: str = ""

    def supersedes(self, ref: CheckpointRef) -> bool:
        """Return whether a later attempt started before this checkpoint's step, so that no run resumes from it."""
        return any(start.attempt > ref.attempt and start.from_step < ref.step for start in self.history)

    def to_json(self) -> bytes:
        """Return it as sealed JSON."""
        return to_sealed_json(
            {
                "format": FORMAT,
                "attempt": self.attempt,
                "owner": self.owner,
                "fingerprint": dict(self.fingerprint),
                "checkpoint": self.checkpoint.to_facts() if self.checkpoint else None,
                "best": self.best.to_facts() if self.best else None,
                "finished": self.finished,
                "history": [{"attempt": start.attempt, "from_step": start.from_step} for start in self.history],
                "nonce": self.nonce,
            }
        )

    @classmethod
    def from_json(cls, body: bytes, *, prefix: str) -> Head:
        """Parse what `to_json` returned.

        Raises:
            IntegrityError: It is damaged, or of an unknown format.
        """
        where = head_key(prefix)
        facts = from_sealed_json(body, where=where)
        if facts.get("format") != FORMAT:
            raise IntegrityError(
                f"'{where}' has the format {facts.get('format')!r}; this version of Tuneyard reads {FORMAT}.",
                hint=f"Update Tuneyard: {installation('')}",
                key=where,
                newer=True,
            )
        try:
            return cls(
                attempt=int(facts["attempt"]),
                owner=facts["owner"],
                fingerprint=dict(facts["fingerprint"]),
                checkpoint=ref_from_facts(prefix, facts["checkpoint"]),
                best=ref_from_facts(prefix, facts["best"]),
                finished=facts["finished"],
                history=tuple(Start(int(start["attempt"]), int(start["from_step"])) for start in facts["history"]),
                nonce=facts["nonce"],
            )
        except (KeyError, TypeError, ValueError) as error:  # another sealed document in its place
            raise damaged(where) from error


def head_key(prefix: str) -> str:
    """Return the key of an experiment's HEAD."""
    return f"{prefix}/HEAD"


def read_head(store: Store, prefix: str) -> tuple[Head, str] | None:
    """Read an experiment's HEAD.

    Args:
        store: The store.
        prefix: The experiment's key, without a trailing `/`.

    Returns:
        HEAD and its ETag; None where there is none.

    Raises:
        IntegrityError: It is damaged; `details["etag"]` names the damaged version.
    """
    try:
        stored = store.get(head_key(prefix))
    except NotFoundError:
        return None
    try:
        return Head.from_json(stored.body, prefix=prefix), stored.etag
    except IntegrityError as error:
        raise IntegrityError(error.message, hint=error.hint, **error.details, etag=stored.etag) from error


def change_head(store: Store, prefix: str, change: Callable[[Head | None], Head], *, over_damage: bool = False) -> Head:
    """Change HEAD by compare-and-swap, retried from its newest version whenever another writer was faster.

    Args:
        store: The store.
        prefix: The experiment's key.
        change: Returns the new HEAD for the current one (None where there is none); its nonce is set here. It may be
            called several times, and raise, in which case nothing is written.
        over_damage: Treat a damaged HEAD as none and replace it, instead of raising.

    Returns:
        The HEAD that was written, or the current one where `change` returned it unchanged.

    Raises:
        IntegrityError: HEAD is damaged, and `over_damage` is false.
        ConflictError: Other writers kept changing it.
    """
    return while_contended(SWAP_TRIES)(_swap_once, store, prefix, change, over_damage)


def while_contended(tries: int) -> Retrying:
    """Return what repeats a conditional write for as long as other writers are faster.

    Args:
        tries: How often it is tried; then its error is raised.
    """
    contended = retry_if_exception_type((ChangedError, AlreadyExistsError))
    return Retrying(retry=contended, stop=stop_after_attempt(tries), wait=wait_random(0, 0.1), reraise=True)


def _swap_once(store: Store, prefix: str, change: Callable[[Head | None], Head], over_damage: bool) -> Head:
    try:
        head, etag = read_head(store, prefix) or (None, None)
    except IntegrityError as error:
        if not over_damage or error.details.get("newer"):
            raise
        head, etag = None, str(error.details["etag"])
    changed = change(head)
    if changed == head:
        return changed
    new = replace(changed, nonce=uuid4().hex)
    if etag is None:
        store.create(head_key(prefix), new.to_json())
    else:
        store.replace(head_key(prefix), new.to_json(), etag=etag)
    return new
