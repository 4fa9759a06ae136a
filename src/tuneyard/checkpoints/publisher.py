"""Publishing in the background: one thread that commits checkpoints while the training goes on.

The training hands over a folder and goes on at once; it learns of trouble at its next `check`, and waits in
`await_commit` before it has done more than a kill may cost. A store that can't be reached is waited for here, up to a
limit, while the training goes on; every other error ends the publishing, that of a full store too. Not a queue of
everything: a checkpoint that still waits gives way to a newer one, unless it is the best.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_after_delay,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)

from tuneyard.checkpoints.attempt import Attempt
from tuneyard.checkpoints.events import EventFiles
from tuneyard.checkpoints.head import CheckpointRef
from tuneyard.checkpoints.metrics import MetricsLog
from tuneyard.checkpoints.retention import RetentionPolicy
from tuneyard.errors import FullError, UnavailableError

PATIENCE_SECONDS = 600.0
"""How long an unreachable store is waited for; every request in it has the store's own retries besides."""

METRICS_EVERY_SECONDS = 5.0
"""How often metrics.jsonl is published at most, between checkpoints."""

_LONGEST_WAIT_SECONDS = 30.0

_Result = TypeVar("_Result")

OnPublished = Callable[[Path, CheckpointRef | None], None]
"""Called when a folder is no longer needed: in the publisher's thread with what was committed, or in the thread of
`submit` with None where a newer checkpoint took its place."""


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    step: int
    about: Mapping[str, Any]


class Publisher:
    """Publishes checkpoints and metrics of one attempt in a thread of its own. Use it in a `with` block.

    Leaving the block waits for what is under way. Leaving it by an error publishes the last metrics and events too, and
    gives up waiting for an unreachable store.

    Args:
        attempt: The attempt that owns the experiment.
        retention: What to prune after each checkpoint.
        metrics: Published before each checkpoint, so that no committed step lacks its rows.
        events: Published whenever the metrics are.
        on_published: Called with each folder that is no longer needed.
        patience_seconds: How long an unreachable store is waited for before `check` tells.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        retention: RetentionPolicy,
        metrics: MetricsLog | None = None,
        events: EventFiles | None = None,
        on_published: OnPublished | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._attempt = attempt
        self._retention = retention
        self._metrics = metrics
        self._events = events
        self._on_published = on_published
        self._patience_seconds = patience_seconds
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._lock = threading.Condition()  # guards all below, and tells of a commit
        self._handed_over: int | None = None
        self._committed: int | None = None
        self._unreachable = False
        self._waiting: list[_Job] = []
        self._current: _Job | None = None
        self._busy = False
        self._drain: Future[None] | None = None
        self._metrics_due = False
        self._metrics_sent = b""
        self._metrics_at = 0.0

    @property
    def pending(self) -> frozenset[Path]:
        """The folders that are published or waiting to be: they must not change."""
        with self._lock:
            return frozenset(job.folder for job in (*self._waiting, self._current) if job)

    def submit(self, folder: Path, step: int, about: Mapping[str, Any]) -> None:
        """Hand a checkpoint over for publishing; returns at once.

        Args:
            folder: The files; they must not change before `on_published` is called with the folder.
            step: The optimizer steps done.
            about: As `Attempt.publish` takes it.

        Raises:
            TuneyardError: The first error that publishing met before.
        """
        self.check()
        with self._lock:
            best = about.get("best")
            skipped = [job for job in self._waiting if job.step != best]
            self._waiting = [job for job in self._waiting if job.step == best]
            self._waiting.append(_Job(folder=folder, step=step, about=about))
            self._handed_over = step
            self._metrics_due = True
            self._start()
        for job in skipped:
            self._tell(job, None)

    def await_commit(self, *, timeout_seconds: float) -> bool:
        """Wait until the newest checkpoint that was handed over is committed; not for a store that can't be reached.

        Returns:
            Whether there is nothing to wait for any more.

        Raises:
            TuneyardError: As `check` does.
        """
        with self._lock:
            over = self._lock.wait_for(
                lambda: self._unreachable or self._committed == self._handed_over, timeout=timeout_seconds
            )
        self.check()
        return over

    def metrics_changed(self) -> None:
        """Tell that the metrics have new rows; they are published every few seconds, and before each checkpoint.

        Raises:
            TuneyardError: The first error that publishing met before.
        """
        self.check()
        with self._lock:
            self._metrics_due = True
            if time.monotonic() - self._metrics_at >= METRICS_EVERY_SECONDS:
                self._start()

    def check(self) -> None:
        """Raise the error that ended the publishing, if one did; the training polls this at each step.

        Raises:
            LostOwnershipError: Another attempt has taken the experiment over.
            UnavailableError: The store could not be reached for `patience_seconds`.
            TuneyardError: Anything else that `Attempt.publish` raises.
        """
        with self._lock:
            drain = self._drain
        if drain is not None and drain.done():
            drain.result()

    def flush(self, *, timeout_seconds: float) -> None:
        """Wait until everything handed over is published.

        Raises:
            UnavailableError: It is not within this time.
            TuneyardError: As `check` does.
        """
        self.check()
        with self._lock:
            self._metrics_due = True
            drain = self._start()
        if wait([drain], timeout=timeout_seconds).not_done:
            folders = ", ".join(sorted(folder.name for folder in self.pending)) or "metrics.jsonl"
            raise UnavailableError(
                f"{folders} could not be published under {self._attempt.prefix} within {timeout_seconds:.0f} s.",
                hint="Launch the run again: it goes on from the newest checkpoint that was published.",
                key=self._attempt.prefix,
            )
        drain.result()

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stop.set()
            if isinstance(error, Exception):  # what an end at once leaves behind is not added to
                with self._lock:
                    self._metrics_due = True
                    self._start()
        self._pool.shutdown(wait=True)
        if kind is None:
            self.check()

    def _start(self) -> Future[None]:
        """See that the thread works; the lock is held."""
        if self._drain is None or not self._busy:
            self._busy = True
            self._drain = self._pool.submit(self._work)
        return self._drain

    def _work(self) -> None:
        # What goes wrong stays in the future for `check`; `_busy` stays set then, so that nothing starts this again.
        while self._take():
            self._patiently(self._publish_metrics)
            job = self._current
            if job:
                ref = self._patiently(self._attempt.publish, job.folder, job.step, job.about)
                with self._lock:
                    self._committed = job.step
                    self._lock.notify_all()
                self._patiently(self._attempt.prune, self._retention)
                self._tell(job, ref)

    def _patiently(self, work: Callable[..., _Result], *args: Any) -> _Result:
        retrying = Retrying(
            retry=retry_if_exception(_may_pass),
            wait=wait_random_exponential(max=_LONGEST_WAIT_SECONDS),
            stop=stop_any(stop_after_delay(self._patience_seconds), stop_when_event_set(self._stop)),
            sleep=sleep_using_event(self._stop),
            before_sleep=lambda _: self._tell_reachable(False),
            reraise=True,
        )
        result = retrying(work, *args)
        self._tell_reachable(True)
        return result

    def _tell_reachable(self, reachable: bool) -> None:
        with self._lock:
            self._unreachable = not reachable
            self._lock.notify_all()

    def _take(self) -> bool:
        with self._lock:
            self._current = self._waiting.pop(0) if self._waiting else None
            self._busy = self._current is not None or self._metrics_due
            return self._busy

    def _publish_metrics(self) -> None:
        with self._lock:
            self._metrics_due = False
            self._metrics_at = time.monotonic()
        if self._metrics is not None and (rows := self._metrics.snapshot()) != self._metrics_sent:
            self._attempt.write_metrics(rows)
            self._metrics_sent = rows
        if self._events is not None:
            for path in self._events.grown():
                body = path.read_bytes()
                self._attempt.write_events(path.name, body)
                self._events.published(path, len(body))

    def _tell(self, job: _Job, ref: CheckpointRef | None) -> None:
        if self._on_published:
            self._on_published(job.folder, ref)


def _may_pass(error: BaseException) -> bool:
    """Whether waiting may help: nobody makes room in a full store while a training only waits."""
    return isinstance(error, UnavailableError) and not isinstance(error, FullError)
