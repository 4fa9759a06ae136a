"""One local run on disk, and how its status is read off it.

    run.json        what was launched: values' hash, store, command, attempts (written by the launcher)
    values.json     the resolved values, the only thing its process reads (mode 0600: `env` may hold secrets)
    lock            held by the run's processes while any of them lives
    process.json    their process ids (written by the supervisor)
    exit.json       how the newest attempt ended (written by the supervisor)
    log             what the process printed, all attempts
    api-key, ready  a server's key (mode 0600), and a marker file that exists once it answers
    work/           the process's own folder

A status is never stored, always derived: running while the lock is held; else as `exit.json` records; interrupted
where there is none. So the status is right after a reboot, a kill -9 and on a full disk too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from tuneyard.errors import INTERRUPTED, TERMINATED
from tuneyard.runners.info import RunInfo, RunKey, RunProgress, Status
from tuneyard.runners.local.output import last_error, read_progress
from tuneyard.runners.local.records import is_locked, read_json

KILLED = 137
FORMAT = 1

_INTERRUPTED_WHY = "the machine restarted or the process was killed"


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Args:
        path: Its folder.
        key: The run's verb and name.
    """

    path: Path
    key: RunKey

    @property
    def record(self) -> Path:
        """What was launched."""
        return self.path / "run.json"

    @property
    def values(self) -> Path:
        """The resolved values."""
        return self.path / "values.json"

    @property
    def lock(self) -> Path:
        """Held while a process of the run lives."""
        return self.path / "lock"

    @property
    def process(self) -> Path:
        """The process ids of the newest attempt."""
        return self.path / "process.json"

    @property
    def exit(self) -> Path:
        """How the newest attempt ended."""
        return self.path / "exit.json"

    @property
    def log(self) -> Path:
        """What the processes printed."""
        return self.path / "log"

    @property
    def api_key(self) -> Path:
        """A server's key."""
        return self.path / "api-key"

    @property
    def ready(self) -> Path:
        """A file that exists once a server answers."""
        return self.path / "ready"

    @cached_property
    def work(self) -> Path:
        """The process's own folder."""
        return self.path / "work"

    def is_running(self) -> bool:
        """Return whether a process of the run is alive."""
        return is_locked(self.lock)

    def info(self) -> RunInfo | None:
        """Return the run's state; None if no run was ever launched here."""
        # The lock first: a run that ends between the two reads is then at worst shown as running.
        running = self.is_running()
        record = read_json(self.record)
        if record is None or record.get("format") != FORMAT:
            return None
        process = read_json(self.process) or {}
        end = None if running else read_json(self.exit)
        status, why, error, hint = self._outcome(running, end, record)
        api_key = self.api_key if record["url"] and self.api_key.exists() else None
        return RunInfo(
            verb=self.key.verb,
            name=self.key.name,
            status=status,
            why=why,
            created_at=datetime.fromisoformat(record["created_at"]),
            started_at=_moment(process.get("started_at")),
            finished_at=_moment(end["finished_at"]) if end else None,
            attempts=record["attempts"],
            pid=process["child"]["pid"] if running and "child" in process else None,
            exit_code=end["code"] if end else None,
            error=error,
            hint=hint,
            values_sha256=record["values_sha256"],
            store=record["store"],
            experiment=record["experiment"],
            url=record["url"],
            api_key_file=str(api_key) if api_key else None,
            progress=self._progress(),
            folder=str(self.path),
        )

    def _progress(self) -> RunProgress | None:
        return read_progress(self.work) if self.key.verb == "finetune" else None

    def _outcome(
        self, running: bool, end: dict[str, Any] | None, record: dict[str, Any]
    ) -> tuple[Status, str, str, str]:
        again = f"Launch it again with tuneyard {self.key.verb} and the same values"
        if running:
            loading = self.key.verb == "serve" and not self.ready.exists()
            return "running", "loading the model" if loading else "", "", ""
        if end is None:
            hint = f"{again}; it resumes from its newest checkpoint." if self.key.verb == "finetune" else f"{again}."
            return "interrupted", _INTERRUPTED_WHY, "", hint
        code, requested = end["code"], end["stop_asked"]
        if requested and code == KILLED:
            return "stopped", "killed before it had saved", "", f"{again}."
        if code in (TERMINATED, INTERRUPTED) or (requested and code == 0 and self.key.verb == "serve"):
            return "stopped", "stopped on request", "", f"{again}."
        if code == 0:
            return "succeeded", "", "", ""
        error, hint = last_error(self.log, offset=record["log_offset"])
        if code == KILLED:
            error, hint = "The process was killed by the system, most often because memory ran out.", f"{again}."
        return "failed", f"exit code {code}", error or end.get("error", ""), hint


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
