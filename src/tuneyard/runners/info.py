"""The state of a run: one record, one status vocabulary for every target.

Pure data: nothing here reads a disk or starts a process. `local/folder.py` fills it in for this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, get_args

Verb = Literal["deliver", "finetune", "serve"]
VERBS: tuple[Verb, ...] = get_args(Verb)
KINDS: Mapping[Verb, str] = {"deliver": "delivery", "finetune": "finetuning run", "serve": "server"}
"""What messages call a run of each verb."""

Status = Literal["queued", "running", "succeeded", "failed", "stopped", "interrupted"]
"""`queued`: waits for capacity. `running`: a process is running it. `succeeded`, `failed`: it ended by itself.
`stopped`: it stopped on request. `interrupted`: its process vanished (a kill, a reboot)."""

ENDED: frozenset[Status] = frozenset({"succeeded", "failed", "stopped", "interrupted"})


@dataclass(frozen=True, slots=True, order=True)
class RunKey:
    """The key of a run: a verb and a name. Each verb may use the same name once."""

    verb: Verb
    name: str

    def __str__(self) -> str:
        return f"{self.verb}/{self.name}"


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a finetuning run is, as last recorded by its process.

    Attributes:
        step: Optimizer steps done.
        max_steps: Optimizer steps in all; 0 if not known yet.
        loss: The newest training loss, or None before the first one is logged.
        seconds_per_step: How long a step takes, or None if not known yet.
        seconds_left: The process's own estimate, or None if it has none.
        phase: What it is doing (`training`, `evaluating`, …); may be empty.
    """

    step: int
    max_steps: int
    loss: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    phase: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """The state of a run at one moment.

    Attributes:
        verb: What the run does.
        name: Its name, unique for its verb.
        status: One word of `Status`.
        why: Why it has that status; may be empty.
        created_at: When it was launched for the first time.
        started_at: When the newest attempt's process started.
        finished_at: When the newest attempt ended; None while it is running.
        attempts: How often it has been launched.
        pid: The id of its process; None if there is none.
        exit_code: The exit code of the newest attempt.
        error: The error message it failed with.
        hint: What to do about it, or next.
        values_sha256: The hash of the values it was launched with, except the texts of environment variables.
        store: The URL of the store it reads and writes.
        experiment: Where in the store a finetuning run publishes (`bucket/path`).
        url: The endpoint of a served model (`http://…/v1`).
        api_key_file: The file with the endpoint's key.
        progress: How far it is, for finetuning runs that have recorded it.
        folder: Where this machine keeps the run's local state.
        event: The cluster's event behind `why` (`FailedScheduling: …`); empty on this machine.
        namespace: The cluster's namespace it runs in; empty on this machine.
        pods: The cluster's pods of the newest attempt.
        api_key_secret: The Secret of the cluster that holds the endpoint's key.
    """

    verb: Verb
    name: str
    status: Status
    why: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    pid: int | None = None
    exit_code: int | None = None
    error: str = ""
    hint: str = ""
    values_sha256: str = ""
    store: str = ""
    experiment: str | None = None
    url: str | None = None
    api_key_file: str | None = None
    progress: RunProgress | None = None
    folder: str = ""
    event: str = ""
    namespace: str = ""
    pods: tuple[str, ...] = ()
    api_key_secret: str | None = None

    @property
    def key(self) -> RunKey:
        """The verb and the name as one."""
        return RunKey(self.verb, self.name)

    @property
    def ended(self) -> bool:
        """Whether no process of the run is running any more."""
        return self.status in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready data, with times as ISO 8601 in UTC."""
        record = asdict(self)
        for field in ("created_at", "started_at", "finished_at"):
            moment: datetime | None = record[field]
            record[field] = moment.isoformat() if moment else None
        return record
