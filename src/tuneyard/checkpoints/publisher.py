"""Publishing in the background: one thread that commits checkpoints during training.

The trainer submits a folder and continues at once. It gets errors at its next `check`, and waits in `await_commit`
before it has done more work than a kill may lose. An unreachable store is retried here, up to a limit, while training
continues; any other error ends the publishing, a full store included. The queue is short: a waiting checkpoint is
dropped for a newer one, unless it is the best.
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
"""How long an unreachable store is retried, in addition to the store's own retries of each request."""

METRICS_EVERY_SECONDS = 5.0
"""The shortest interval between publications of metrics.jsonl without a checkpoint."""

_LONGEST_WAIT_SECONDS = 30.0

_Result = TypeVar("_Result")

OnPublished = Callable[[Path, CheckpointRef | None], None]
"""Called when a folder is no longer needed: in the publisher's thread with the committed checkpoint, or in that of
`submit` with None where a newer checkpoint replaced it in the queue."""


@dataclass(frozen=True, slots=True)
class _Job:
    folder: Path
    step: int
    about: Mapping[str, Any]


class Publisher:
    """Publishes checkpoints and metrics of one attempt in its own thread. Use it in a `with` block.

    Leaving the block waits for pending work. Leaving it by an error also publishes the last metrics and events, but
    retries an unreachable store no longer.

    Args:
        attempt: The attempt that owns the experiment.
        retention: What to prune after each checkpoint.
        metrics: Published before each checkpoint, so that no committed step lacks its rows.
        events: Published whenever the metrics are.
        on_published: Called with each folder that is no longer needed.
        patience_seconds: How long an unreachable store is retried before `check` raises.
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
        self._lock = threading.Condition()  # guards the fields below, notified of each commit
        self._submitted: int | None = None
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
        """The folders in progress or in the queue, which must not change."""
        with self._lock:
            return frozenset(job.folder for job in (*self._waiting, self._current) if job)

    def submit(self, folder: Path, step: int, about: Mapping[str, Any]) -> None:
        """Submit a checkpoint for publishing; returns at once.

        Args:
            folder: The files; they must not change before `on_published` is called with the folder.
            step: The optimizer steps done.
            about: As for `Attempt.publish`.

        Raises:
            TuneyardError: An earlier error of publishing.
        """
        self.check()
        with self._lock:
            best = about.get("best")
            skipped = [job for job in self._waiting if job.step != best]
            self._waiting = [job for job in self._waiting if job.step == best]
            self._waiting.append(_Job(folder=folder, step=step, about=about))
            self._submitted = step
            self._metrics_due = True
            self._start()
        for job in skipped:
            self._release(job, None)

    def await_commit(self, *, timeout_seconds: float) -> bool:
        """Wait until the newest submitted checkpoint is committed, or the store is found unreachable.

        Returns:
            Whether that is so; False after the timeout.

        Raises:
            TuneyardError: As `check` does.
        """
        with self._lock:
            over = self._lock.wait_for(
                lambda: self._unreachable or self._committed == self._submitted, timeout=timeout_seconds
            )
        self.check()
        return over

    def metrics_changed(self) -> None:
        """Announce new rows of metrics, which are published every few seconds and before each checkpoint.

        Raises:
            TuneyardError: An earlier error of publishing.
        """
        self.check()
        with self._lock:
            self._metrics_due = True
            if time.monotonic() - self._metrics_at >= METRICS_EVERY_SECONDS:
                self._start()

    def check(self) -> None:
        """Raise the error that ended the publishing, if any; the trainer calls this at each step.

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
        """Wait until everything that was submitted is published.

        Raises:
            UnavailableError: It is not within the timeout.
            TuneyardError: As `check` does.
        """
        self.check()
        with self._lock:
            self._metrics_due = True
            drain = self._start()
        if wait([drain], timeout=timeout_seconds).not_done:
            folders = ", ".join(sorted(folder.name for folder in self.pending)) or "metrics.jsonl"
            raise UnavailableError(
                f"'{folders}' could not be published under '{self._attempt.prefix}' within {timeout_seconds:.0f} s.",
                hint="Launch the run again: it resumes from the newest published checkpoint.",
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
            if isinstance(error, Exception):  # but not on Ctrl-C or SIGTERM
                with self._lock:
                    self._metrics_due = True
                    self._start()
        self._pool.shutdown(wait=True)
        if kind is None:
            self.check()

    def _start(self) -> Future[None]:
        """Start the thread unless it is running; the lock is held."""
        if self._drain is None or not self._busy:
            self._busy = True
            self._drain = self._pool.submit(self._work)
        return self._drain

    def _work(self) -> None:
        # An error stays in the future for `check`; `_busy` then stays set, so that nothing restarts this.
        while self._take():
            self._retry(self._publish_metrics)
            job = self._current
            if job:
                ref = self._retry(self._attempt.publish, job.folder, job.step, job.about)
                with self._lock:
                    self._committed = job.step
                    self._lock.notify_all()
                self._retry(self._attempt.prune, self._retention)
                self._release(job, ref)

    def _retry(self, work: Callable[..., _Result], *args: Any) -> _Result:
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_random_exponential(max=_LONGEST_WAIT_SECONDS),
            stop=stop_any(stop_after_delay(self._patience_seconds), stop_when_event_set(self._stop)),
            sleep=sleep_using_event(self._stop),
            before_sleep=lambda _: self._set_reachable(False),
            reraise=True,
        )
        result = retrying(work, *args)
        self._set_reachable(True)
        return result

    def _set_reachable(self, reachable: bool) -> None:
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

    def _release(self, job: _Job, ref: CheckpointRef | None) -> None:
        if self._on_published:
            self._on_published(job.folder, ref)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may help; a full store stays full while training waits."""
    return isinstance(error, UnavailableError) and not isinstance(error, FullError)
