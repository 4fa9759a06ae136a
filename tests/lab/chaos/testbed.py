"""The place where trials run: a store prefix that nothing else uses, and the training processes that write below it.

Everything below the prefix is removed at the end, however the trials end.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.programs import Program
from lab.training import ARGUMENTS, changed, published_metrics, published_weights, write_values
from tuneyard.checkpoints import CheckpointRef
from tuneyard.checkpoints.survey import survey_experiment
from tuneyard.errors import NotFoundError, cleaning_up
from tuneyard.store import Store, find_store

FOLDER = ".tuneyard-trials"
FORK_SERVER = "lab.chaos.fork_server"
STEPS = 16
"""Optimizer steps of one training."""
SAVE_STEPS = 4
"""Steps from one checkpoint to the next."""
ROWS = 40
"""Conversations, of which a fifth is held out; 4 per step and two epochs make `STEPS`."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training process ended.

    Attributes:
        code: Its exit code, or a negative signal number.
        seconds: How long it ran.
        requests: The store requests that it made; 0 if it was killed.
        log: What it wrote to standard output and standard error.
        step: The last step that it reported.
    """

    code: int
    seconds: float
    requests: int
    log: str
    step: int

    @property
    def from_step(self) -> int | None:
        """The step that it resumed from, 0 for a fresh start; None if it ended before."""
        starts = [line for line in self.log.splitlines() if line.startswith("Attempt ")]
        return int(starts[0].rstrip(".").rsplit(" ", 1)[1]) if starts else None

    @property
    def last_line(self) -> str:
        """The line of the log that best explains the end."""
        errors = [line for line in self.log.splitlines() if line.startswith("error: ")]
        return (errors or self.log.strip().splitlines() or ["no output"])[-1]


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished training has published.

    Attributes:
        weights: The SHA-256 of each file of weights.
        rows: Its rows of metrics without what depends on the clock.
    """

    weights: dict[str, str]
    rows: list[dict[str, Any]]


class Testbed:
    """A store prefix for trials.

    Args:
        store: The store.
        prefix: The prefix, without a `/` at the end.
        folder: A local folder for the processes' files.
        environ: The environment of the training processes.
        fork_server: Runs the training processes; None where nothing is trained.
    """

    __test__ = False

    def __init__(
        self, store: Store, prefix: str, folder: Path, environ: Mapping[str, str], fork_server: Program | None
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.folder = folder
        self.environ = environ
        self.fork_server = fork_server

    @property
    def model_key(self) -> str:
        """The key of the base model."""
        return f"{self.prefix}/models/tiny"

    @property
    def data_key(self) -> str:
        """The key of the dataset."""
        return f"{self.prefix}/datasets/chat.jsonl"

    def experiment(self, run: str) -> str:
        """Return where a run publishes."""
        return f"{self.prefix}/experiments/{run}"

    def values(self, run: str) -> dict[str, Any]:
        """Return the values of a run as a user would write them."""
        return changed(
            **{
                "basemodel": self.model_key,
                "checkpointsRemote": self.experiment(run),
                "finetuning_config.data_conf.training_data.datasets": [{"path": self.data_key}],
                ARGUMENTS + "save_steps": SAVE_STEPS,
            }
        )

    def deliver(self) -> None:
        """Make the model and the dataset, and write them into the store."""
        answer = self._order(
            {
                "deliver": {"model_key": self.model_key, "data_key": self.data_key},
                "rows": ROWS,
                "workdir": str(self.folder / "delivered"),
                "environ": dict(self.environ),
            }
        )
        assert answer["code"] == 0, f"no model and data below {self.prefix} in {self.store.url}"

    def train(self, run: str, **order: Any) -> Ended:
        """Train in a process of its own until it ends or is killed.

        Args:
            run: The run's name.
            order: `delay_seconds` (kill that long after the start), `request` (kill after that many store requests),
                `until` (kill once the log has one of these texts), `environ` (added to the process's own).
        """
        path = write_values(self.folder / run / "values.json", self.values(run))
        return self._run(run, {"values": str(path), **order})

    def publish(self, run: str, steps: int, **order: Any) -> Ended:
        """Publish small checkpoints without training, resuming from the newest, in a process of its own.

        Args:
            run: The run's name.
            steps: The last step.
            order: As for `train`.
        """
        (self.folder / run).mkdir(exist_ok=True)
        return self._run(run, {"publish": self.experiment(run), "steps": steps, **order})

    def _run(self, run: str, order: Mapping[str, Any]) -> Ended:
        workdir = self.folder / run
        (workdir / "log").touch()
        environ = {**self.environ, **order.get("environ", {})}
        answer = self._order({"workdir": str(workdir), **order, "environ": environ})
        log = (workdir / "log").read_text(encoding="utf-8", errors="replace")
        try:
            step = int(json.loads((workdir / "progress.json").read_text(encoding="utf-8")).get("step") or 0)
        except (FileNotFoundError, ValueError):
            step = 0
        return Ended(answer["code"], answer["seconds"], answer["requests"], log, step)

    def _order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.fork_server, "this testbed does not train"
        self.fork_server.send(order)
        return self.fork_server.receive()

    def remove_local(self, run: str) -> None:
        """Remove a run's local files, as if it resumed on another machine."""
        shutil.rmtree(self.folder / run, ignore_errors=True)

    def committed(self, run: str) -> Sequence[CheckpointRef]:
        """List a run's committed checkpoints, newest first."""
        return survey_experiment(self.store, self.experiment(run)).committed

    def result(self, run: str) -> Result | None:
        """Return what a finished run has published; None if it has not finished."""
        try:
            weights = published_weights(self.store, self.experiment(run))
            return Result(weights, published_metrics(self.store, self.experiment(run)))
        except NotFoundError:
            return None

    def remove(self, run: str) -> None:
        """Remove a run, locally and from the store."""
        self.remove_local(run)
        self._clear(f"{self.experiment(run)}/")

    def snapshot(self, prefix: str) -> dict[str, bytes]:
        """Read every object below a prefix; they are small."""
        return {info.key: self.store.get(info.key).body for info in self.store.list(prefix)}

    def restore(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """Make everything below a prefix equal to a snapshot."""
        found = self.snapshot(prefix)
        self.store.delete([key for key in found if key not in objects])
        for key, body in objects.items():
            if found.get(key) != body:
                self.store.put(key, body)

    def clear(self) -> None:
        """Remove everything below the prefix."""
        self._clear(f"{self.prefix}/")

    def _clear(self, prefix: str) -> None:
        self.store.delete([info.key for info in self.store.list(prefix)])


@contextlib.contextmanager
def open_testbed(url: str, bucket: str, environ: Mapping[str, str], fork_server: Program | None) -> Generator[Testbed]:
    """Make a testbed for the duration of the `with` block.

    Args:
        url: The store.
        bucket: The bucket to write into.
        environ: Where `AWS_*` is read from.
        fork_server: A running `FORK_SERVER`, which several testbeds may share; None for a testbed without a model and
            a dataset, on which nothing is trained.
    """
    store = find_store(url, environ=environ)
    environ = {**environ, "TUNEYARD_STORE": store.url, "TUNEYARD_DEVICE": "cpu"}
    prefix = f"{bucket}/{FOLDER}/{secrets.token_hex(8)}"
    with tempfile.TemporaryDirectory(prefix="tuneyard-trials-") as folder:
        testbed = Testbed(store, prefix, Path(folder), environ, fork_server)
        with cleaning_up(testbed.clear):
            if fork_server:
                testbed.deliver()
            yield testbed
