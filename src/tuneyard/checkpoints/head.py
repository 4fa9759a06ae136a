"""HEAD: which attempt owns an experiment, and the newest checkpoint that it committed.

HEAD changes only by compare-and-swap, so two attempts never both believe that they took the run over, and no two bodies
of it are alike (a nonce in each), since equal bytes have equal etags. HEAD is not where a reader learns what is whole:
manifests say that. It says who may write, and what was known to be there.
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
from tuneyard.store import Store
from tuneyard.whereabouts import installation

FORMAT = 1
"""The version of HEAD's JSON form."""

SWAP_TRIES = 100
"""How often a swap is tried against contenders; of N contenders one wins each round, so N rounds are enough."""

_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})-([1-9][0-9]{0,17})")


@dataclass(frozen=True, slots=True, order=True)
class CheckpointRef:
    """Names one checkpoint of an experiment; a newer one is greater.

    Attributes:
        step: The optimizer steps done when it was taken.
        attempt: The attempt that wrote it.
        key: Its place, `<prefix>/checkpoint-<step>-<attempt>`, without a `/` at the end.
    """

    step: int
    attempt: int
    key: str

    @classmethod
    def at(cls, prefix: str, step: int, attempt: int) -> CheckpointRef:
        """Name the checkpoint of a step and an attempt under an experiment's prefix."""
        return cls(step=step, attempt=attempt, key=f"{prefix}/checkpoint-{step}-{attempt}")

    @classmethod
    def from_name(cls, prefix: str, name: str) -> CheckpointRef | None:
        """Read `checkpoint-<step>-<attempt>`; None where the name is something else (`checkpoint-final`)."""
        match = _CHECKPOINT.fullmatch(name)
        return cls.at(prefix, int(match[1]), int(match[2])) if match else None

    @property
    def name(self) -> str:
        """The last part of the key."""
        return f"checkpoint-{self.step}-{self.attempt}"

    @property
    def manifest_key(self) -> str:
        """Where its manifest lies."""
        return f"{self.key}/manifest.json"

    def to_facts(self) -> dict[str, Any]:
        """Give plain JSON values; the key without the prefix, so that a copied experiment still fits."""
        return {"step": self.step, "attempt": self.attempt, "key": self.name}


def ref_from_facts(prefix: str, facts: Mapping[str, Any] | None) -> CheckpointRef | None:
    """Read what `CheckpointRef.to_facts` gave; None stays None.

    Raises:
        IntegrityError: Step or attempt is no number of a checkpoint: its key and its folder are made of them.
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
    """Tells where an attempt began: everything that earlier attempts did after that step is superseded by it.

    Attributes:
        attempt: The attempt's number.
        from_step: The step of the checkpoint it went on from, 0 where it began anew.
    """

    attempt: int
    from_step: int


@dataclass(frozen=True, slots=True)
class Head:
    """The contents of HEAD.

    Attributes:
        attempt: The number of the attempt that owns the experiment.
        owner: A random name of that attempt.
        fingerprint: The settings that may not change under this experiment; flat, plain JSON values.
        checkpoint: The newest committed checkpoint.
        best: The best committed checkpoint, where the training looks for one.
        finished: Whether `checkpoint-final` was published.
        history: Where each attempt began.
        nonce: Makes each body differ from every other.
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
        """Tell whether a later attempt began before this checkpoint, so that it leads nowhere any more."""
        return any(start.attempt > ref.attempt and start.from_step < ref.step for start in self.history)

    def to_json(self) -> bytes:
        """Write it as sealed JSON."""
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
        """Read what `to_json` wrote.

        Raises:
            IntegrityError: It is damaged, or of a format that this version does not know.
        """
        where = head_key(prefix)
        facts = from_sealed_json(body, where=where)
        if facts.get("format") != FORMAT:
            raise IntegrityError(
                f"{where} has format {facts.get('format')!r}, and this version of Tuneyard reads {FORMAT}.",
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
    """Tell where an experiment's HEAD lies."""
    return f"{prefix}/HEAD"


def read_head(store: Store, prefix: str) -> tuple[Head, str] | None:
    """Read an experiment's HEAD.

    Args:
        store: Where the experiment lies.
        prefix: The experiment's key, without a `/` at the end.

    Returns:
        HEAD and its etag, or None where there is none.

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
    """Change HEAD by compare-and-swap, again from its newest version whenever somebody else was faster.

    Args:
        store: Where the experiment lies.
        prefix: The experiment's key.
        change: Makes the new HEAD from what is there (None where nothing is); its nonce is set here. What it raises
            ends the change with nothing written. It may be called several times.
        over_damage: Treat a damaged HEAD as none and write over it, instead of raising.

    Returns:
        The HEAD that was written, or what was there where `change` gave it back as it was.

    Raises:
        IntegrityError: HEAD is damaged, and `over_damage` is false.
        ConflictError: Others changed it all the time.
    """
    contended = retry_if_exception_type((ChangedError, AlreadyExistsError))
    patiently = Retrying(retry=contended, stop=stop_after_attempt(SWAP_TRIES), wait=wait_random(0, 0.1), reraise=True)
    return patiently(_swap_once, store, prefix, change, over_damage)


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
