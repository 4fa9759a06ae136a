"""Runs on this machine: a detached supervisor for each, all state in the folders of `TUNEYARD_HOME`.

Implements `tuneyard.runners.base.Runner`. Only the supervisors stay resident; every call reads the disk, so any number
of command lines and Python programs may use it at once.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tuneyard.errors import ConflictError, NotFoundError, TuneyardError, UnavailableError, UsageError
from tuneyard.folders import home_folder, refusals
from tuneyard.interpreter import python
from tuneyard.runners.base import STOP_SECONDS, Draft, Launch, Reached, Trained
from tuneyard.runners.differences import differing_values
from tuneyard.runners.info import KINDS, VERBS, RunInfo, RunKey, Verb
from tuneyard.runners.local import signals
from tuneyard.runners.local.commands import ENTRY_POINTS, BuildCommand
from tuneyard.runners.local.folder import FORMAT, RunFolder
from tuneyard.runners.local.ports import choose_port
from tuneyard.runners.local.records import locked, read_json, try_lock, write_bytes, write_json
from tuneyard.runners.names import check_name, find_run
from tuneyard.runners.plans import EXPERIMENTS
from tuneyard.runners.published import check_model, delete_published

if TYPE_CHECKING:
    from tuneyard.cluster import Finding
    from tuneyard.estimate import Estimate, Verdict

_POLL_SECONDS = 0.1
_KILL_SECONDS = 10.0


class LocalRunner:
    """Runs each launch as a process of this machine that lives on without its launcher.

    Args:
        home: The folder of the state; `TUNEYARD_HOME` or the user's data folder by default.
        commands: The command of each verb; the entry points of the verbs' packages by default.
    """

    poll_seconds = 0.25
    options = ""

    def __init__(self, home: Path | None = None, *, commands: Mapping[Verb, BuildCommand] = ENTRY_POINTS) -> None:
        self._home = (home or home_folder()).absolute()
        self._commands = commands

    @property
    def own_store(self) -> str:
        """The URL of this machine's store."""
        from tuneyard.store import default_store_url

        return default_store_url()

    def preview(self, launch: Launch) -> list[dict[str, Any]]:
        """Return no objects: a launch starts a process."""
        del launch
        return []

    def defaults(self, verb: Verb) -> Mapping[str, Any]:
        """Return none: this machine sets no values; see `Runner.defaults`."""
        del verb
        return {}

    def prepare(self, draft: Draft) -> tuple[Launch, tuple[str, ...]]:
        """Choose the store; see `Runner.prepare`."""
        from tuneyard.store import find_store
        from tuneyard.values import cluster_only_keys

        url = find_store(draft.store, fallback=draft.fallback).url
        keys = cluster_only_keys(draft.values)
        notes = (f"These keys have no effect on this machine: {', '.join(keys)}.",) if keys else ()
        return Launch(draft.key, draft.values, url, experiment=draft.experiment, port=draft.port), notes

    def check_inputs(self, launch: Launch) -> None:
        """Check the store; see `Runner.check_inputs`."""
        from tuneyard.runners.published import check_delivered

        check_delivered(launch.store, launch.values)

    def find_trained(self, run: str, *, merged: bool, store: str | None) -> Trained:
        """Find a run of this machine, or one of another machine in the store; see `Runner.find_trained`."""
        from tuneyard.store import find_store

        try:
            info = find_run(self.list("finetune"), run, verbs=("finetune",), command="tuneyard serve")
        except NotFoundError:
            info = None  # of another machine: its experiment may still be in the store
        opened = find_store(store, fallback=info.store if info else None)
        experiment = (info.experiment if info else None) or f"{EXPERIMENTS}/{run}"
        model = f"{experiment}/{'checkpoint-final-merged' if merged else 'checkpoint-final'}"
        check_model(opened, model, run, info)
        # What was trained without an accelerator here is served without one, unless the user's own --set differs.
        on_cpu = info is not None and self.values(info.key).get("gpuResource") == ""
        return Trained(
            info.name if info else run,
            experiment,
            model,
            store=info.store if info else None,
            sets=["gpuResource="] if on_cpu else [],
        )

    def estimate(self, launch: Launch, *, store: str | None, inside: bool) -> Estimate:
        """Estimate in this process; see `Runner.estimate`."""
        from tuneyard.estimate import estimate
        from tuneyard.store import find_store
        from tuneyard.values import FinetuneValues

        if inside:
            raise UsageError("--inside is for a cluster.", hint="Add --on kubernetes, or omit --inside.")
        assert isinstance(launch.values, FinetuneValues)
        return estimate(launch.values, find_store(store))

    def judge(self, launch: Launch, estimate: Estimate) -> tuple[Verdict, tuple[Finding, ...]]:
        """Compare with this machine's memory; see `Runner.judge`."""
        from tuneyard.estimate import fits_here

        return fits_here(estimate.memory_of_all, accelerators=launch.on_accelerators), ()

    def launch(self, launch: Launch) -> RunInfo:
        """Start a run, or join the one with the same values; see `Runner.launch`."""
        check_name(launch.key.name)
        folder = self._folder(launch.key)
        with refusals(), locked(self._launch_lock):
            folder.work.mkdir(parents=True, exist_ok=True)
            folder.path.chmod(0o700)
            lock = try_lock(folder.lock)
            if lock is None:
                return self._join(folder, launch)
            try:
                self._start(folder, launch, lock)
            finally:
                os.close(lock)
        return self.get(launch.key)

    def list(self, verb: Verb | None = None) -> list[RunInfo]:
        """List the runs, newest launch first."""
        keys = [
            RunKey(each, path.name)
            for each in VERBS
            if verb in (None, each)
            for path in sorted((self._home / "runs" / each).glob("[a-z0-9]*"))
        ]
        infos = [info for key in keys if (info := self._folder(key).info()) is not None]
        long_ago = datetime.fromtimestamp(0, UTC)
        return sorted(infos, key=lambda info: info.started_at or info.created_at or long_ago, reverse=True)

    def get(self, key: RunKey) -> RunInfo:
        """Return the state of one run; see `Runner.get`."""
        info = self._folder(key).info()
        if info is None:
            raise NotFoundError(
                f"There is no {KINDS[key.verb]} named {key.name!r}.",
                hint="List the runs: tuneyard runs",
                name=key.name,
            )
        return info

    def values(self, key: RunKey) -> dict[str, Any]:
        """Read the values the run was launched with; see `Runner.values`."""
        self.get(key)
        return json.loads(self._folder(key).values.read_bytes())

    def logs(self, key: RunKey, *, follow: bool = False, newest: bool = False) -> Iterator[str]:
        """Yield the lines of the run's log; see `Runner.logs`."""
        self.get(key)
        folder = self._folder(key)
        record = read_json(folder.record) or {}
        return self._lines(folder, follow, record["log_offset"] if newest else 0)

    def wait(self, key: RunKey, *, timeout_seconds: float | None = None) -> RunInfo:
        """Wait until the run has ended; see `Runner.wait`."""
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        folder = self._folder(key)
        while folder.is_running():
            if until is not None and time.monotonic() >= until:
                raise UnavailableError(
                    f"The run '{key}' is still running after {timeout_seconds:g} s.",
                    hint=f"Follow it: tuneyard watch {key}",
                )
            time.sleep(_POLL_SECONDS)
        return self.get(key)

    def stop(self, key: RunKey, *, force: bool = False, timeout_seconds: float = STOP_SECONDS) -> RunInfo:
        """Request that the run saves and stops, and wait until it has; see `Runner.stop`."""
        folder = self._folder(key)
        if self.get(key).ended:
            return self.get(key)
        # A supervisor that is just starting may not have written its process id yet.
        until = time.monotonic() + timeout_seconds
        while not signals.request_stop(folder) and folder.is_running() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        while folder.is_running() and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        if not folder.is_running():
            return self.get(key)
        if not force:
            raise UnavailableError(
                f"The run '{key}' has not stopped within {timeout_seconds:g} s: it is still saving, or it hangs.",
                hint=f"Wait for it: tuneyard watch {key}   Or kill it: tuneyard stop {key} --force",
            )
        signals.kill(folder)
        return self.wait(key, timeout_seconds=_KILL_SECONDS)

    @contextmanager
    def reach(self, key: RunKey) -> Generator[Reached]:
        """Return a server's own address; see `Runner.reach`."""
        info = self.get(key)
        if not info.url:
            raise UsageError(f"The run '{key}' is not a server.", hint="List them: tuneyard runs --verb serve")
        path = info.api_key_file
        yield Reached(info.url, Path(path).read_text(encoding="utf-8").strip() if path else "")

    def delete_data(self, key: RunKey) -> int:
        """Delete what the run has published; see `Runner.delete_data`."""
        return delete_published(self.get(key))

    def delete(self, key: RunKey) -> RunInfo:
        """Delete the run's local state; see `Runner.delete`."""
        folder = self._folder(key)
        with locked(self._launch_lock):
            info = self.get(key)
            lock = try_lock(folder.lock)
            if lock is None:
                raise ConflictError(
                    f"The run '{key}' is still running, so it can't be deleted.",
                    hint=f"Stop it first: tuneyard stop {key}",
                )
            # Renamed first, so that a new launch of the name does not wait until gigabytes are deleted.
            gone = folder.path.with_name(f".deleted-{secrets.token_hex(4)}")
            folder.path.rename(gone)
            os.close(lock)
        shutil.rmtree(gone)
        return info

    @property
    def _launch_lock(self) -> Path:
        return self._home / "launch.lock"

    def _folder(self, key: RunKey) -> RunFolder:
        return RunFolder(self._home / "runs" / key.verb / key.name, key)

    def _join(self, folder: RunFolder, launch: Launch) -> RunInfo:
        running = self.get(launch.key)
        differing = differing_values(json.loads(folder.values.read_bytes()), json.loads(launch.values_json))
        if running.store != launch.store:
            differing.append("--store")
        if not differing:
            return running
        raise ConflictError(
            f"The run '{launch.key}' is running with different values: {', '.join(differing)}.",
            hint=f"Stop it with tuneyard stop {launch.key}, or use another --name.",
            keys=differing,
        )

    def _start(self, folder: RunFolder, launch: Launch, lock: int) -> None:
        if launch.key.verb == "serve":
            launch = replace(
                launch, port=choose_port(launch.host, launch.port, taken=self._ports_of_others(launch.key))
            )
            if not folder.api_key.exists():
                write_bytes(folder.api_key, f"{secrets.token_urlsafe(24)}\n".encode(), mode=0o600)
        before = read_json(folder.record) or {}
        for old in (folder.exit, folder.process, folder.ready):
            old.unlink(missing_ok=True)
        write_bytes(folder.values, launch.values_json, mode=0o600)
        now, attempt = datetime.now(UTC), before.get("attempts", 0) + 1
        with folder.log.open("ab") as log:
            if attempt > 1:
                log.write(f"--- attempt {attempt}, {now:%Y-%m-%d %H:%M:%S} UTC\n".encode())
                log.flush()
            record = {
                **self._record(folder, launch),
                "created_at": before.get("created_at", now.isoformat()),
                "attempts": attempt,
                "log_offset": log.tell(),
            }
            write_json(folder.record, record, mode=0o600)
            started = subprocess.run(
                python("-m", "tuneyard.runners.local.supervisor", str(folder.path), str(lock)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                check=False,
            )
        if started.returncode != 0:
            raise TuneyardError(f"The supervisor of '{launch.key}' could not start.", hint=f"See its log: {folder.log}")

    def _record(self, folder: RunFolder, launch: Launch) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "verb": launch.key.verb,
            "name": launch.key.name,
            "values_sha256": launch.values_sha256,
            "store": launch.store,
            "experiment": launch.experiment,
            "url": f"http://{launch.host}:{launch.port}/v1" if launch.key.verb == "serve" else None,
            "argv": self._commands[launch.key.verb](folder, launch),
        }

    def _ports_of_others(self, key: RunKey) -> set[int]:
        """Ports of other running servers, including those that are loading and don't listen yet."""
        urls = (info.url for info in self.list("serve") if info.key != key and not info.ended)
        return {port for url in urls if url and (port := urlsplit(url).port)}

    @staticmethod
    def _lines(folder: RunFolder, follow: bool, offset: int) -> Iterator[str]:
        rest = ""
        if not folder.log.exists():
            return
        with folder.log.open(encoding="utf-8", errors="replace", newline="") as log:
            log.seek(offset)
            while True:
                running = follow and folder.is_running()
                text = rest + log.read()
                *whole, rest = text.split("\n")
                # A bar that redraws itself with carriage returns counts as its newest state.
                yield from (line.rstrip("\r").rpartition("\r")[2] for line in whole)
                if not running:
                    break
                time.sleep(_POLL_SECONDS)
        if rest:
            yield rest.rstrip("\r").rpartition("\r")[2]
