"""The place of the trials: a prefix of a store that nothing else uses, and the trainings that run on it.

All that is written lies below that prefix, and is removed in the end, however the trials end.
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

from tuneyard.chaos.material import values, write_values
from tuneyard.chaos.programs import Program
from tuneyard.checkpoints import METRICS_FILE, CheckpointRef
from tuneyard.checkpoints.survey import survey_experiment
from tuneyard.errors import NotFoundError, TuneyardError, cleaning_up
from tuneyard.store import Store, find_store, read_manifest

FOLDER = ".tuneyard-chaos"
FORKS = "tuneyard.chaos.forks"
_CLOCKS = {"time", "seconds"}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a training's process ended.

    Attributes:
        code: Its exit code, or a negative signal number.
        seconds: How long it ran.
        requests: The store requests that it made; 0 where it was killed.
        log: What it said.
        step: The step that it had reached.
    """

    code: int
    seconds: float
    requests: int
    log: str
    step: int

    @property
    def from_step(self) -> int | None:
        """The step that it went on from; None where it did not get that far."""
        starts = [line for line in self.log.splitlines() if line.startswith("attempt ")]
        return int(starts[0].rsplit(" ", 1)[1]) if starts else None


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished training has published, without what a clock says.

    Attributes:
        weights: The SHA-256 of each file of weights.
        rows: Its rows of metrics.
    """

    weights: dict[str, str]
    rows: list[dict[str, Any]]


class Ground:
    """A prefix for trials.

    Args:
        store: The store.
        prefix: The prefix, without a `/` at the end.
        folder: A folder of this machine.
        environ: What a training's process finds in its environment.
        forks: Runs the trainings.
    """

    def __init__(self, store: Store, prefix: str, folder: Path, environ: Mapping[str, str], forks: Program) -> None:
        self.store = store
        self.prefix = prefix
        self.folder = folder
        self.environ = environ
        self.forks = forks

    def experiment(self, run: str) -> str:
        """Tell where a run's checkpoints go."""
        return f"{self.prefix}/experiments/{run}"

    def lay_out(self) -> None:
        """Make model and data, and deliver them.

        Raises:
            TuneyardError: That did not work.
        """
        order = {"lay_out": self.prefix, "workdir": str(self.folder / "laid-out"), "environ": dict(self.environ)}
        self.forks.tell(order)
        if self.forks.answer()["code"]:
            raise TuneyardError(
                f"The model and data of the trials could not be written below {self.prefix} in {self.store.url}.",
                hint="See whether the store works: tuneyard doctor store",
            )

    def train(self, run: str, **order: Any) -> Ended:
        """Let a training run until it ends or is killed.

        Args:
            run: The run's name.
            order: `delay_seconds` (killed so long after its start), `request` (killed after so many store requests),
                `until` (killed when its log has one of these texts), `environ` (on top of the process's own).
        """
        path = self.folder / run / "values.json"
        write_values(path, values(self.prefix, run))
        return self._ended(run, {"values": str(path), **order})

    def publish(self, run: str, steps: int, **order: Any) -> Ended:
        """Let a process that does not train publish small checkpoints up to a step, going on from what is there.

        Args:
            run: The run's name.
            steps: The last step.
            order: As for `train`.
        """
        (self.folder / run).mkdir(exist_ok=True)
        return self._ended(run, {"publish": self.experiment(run), "steps": steps, **order})

    def _ended(self, run: str, order: Mapping[str, Any]) -> Ended:
        workdir = self.folder / run
        (workdir / "log").touch()
        environ = {**self.environ, **order.get("environ", {})}
        self.forks.tell({"workdir": str(workdir), **order, "environ": environ})
        answer = self.forks.answer()
        log = (workdir / "log").read_text(encoding="utf-8", errors="replace")
        try:
            step = int(json.loads((workdir / "progress.json").read_text(encoding="utf-8")).get("step") or 0)
        except (FileNotFoundError, ValueError):
            step = 0
        return Ended(answer["code"], answer["seconds"], answer["requests"], log, step)

    def forget_machine(self, run: str) -> None:
        """Leave nothing of a run on this machine, as where it goes on on another one."""
        shutil.rmtree(self.folder / run, ignore_errors=True)

    def committed(self, run: str) -> Sequence[CheckpointRef]:
        """List a run's committed checkpoints, newest first."""
        return survey_experiment(self.store, self.experiment(run)).committed

    def result(self, run: str) -> Result | None:
        """Read what a finished run has published; None where it has not finished."""
        experiment = self.experiment(run)
        try:
            manifest = read_manifest(self.store, f"{experiment}/checkpoint-final/manifest.json")
            text = self.store.get(f"{experiment}/{METRICS_FILE}").body.decode()
        except NotFoundError:
            return None
        weights = {entry.path: entry.sha256 for entry in manifest.files if entry.path.endswith(".safetensors")}
        return Result(weights, [_without_clocks(json.loads(line)) for line in text.splitlines()])

    def remove(self, run: str) -> None:
        """Remove all of a run."""
        self.forget_machine(run)
        self._clear(f"{self.experiment(run)}/")

    def snapshot(self, prefix: str) -> dict[str, bytes]:
        """Read every object below a prefix; they are small."""
        return {info.key: self.store.get(info.key).body for info in self.store.list(prefix)}

    def put_back(self, prefix: str, objects: Mapping[str, bytes]) -> None:
        """Make everything below a prefix what it was."""
        there = self.snapshot(prefix)
        self.store.delete([key for key in there if key not in objects])
        for key, body in objects.items():
            if there.get(key) != body:
                self.store.put(key, body)

    def clear(self) -> None:
        """Remove everything below the prefix."""
        self._clear(f"{self.prefix}/")

    def _clear(self, prefix: str) -> None:
        self.store.delete([info.key for info in self.store.list(prefix)])


@contextlib.contextmanager
def ground(
    url: str | None, bucket: str, environ: Mapping[str, str], *, training: bool = True, forks: Program | None = None
) -> Generator[Ground]:
    """Lend a ground with model and data on it; nothing of it is left when the block ends.

    Args:
        url: The store; where None, `TUNEYARD_STORE` or the default folder.
        bucket: The bucket to write into.
        environ: Where `AWS_*` is read from.
        training: Whether trainings will run on it; if not, it has neither model nor data.
        forks: A running `tuneyard.chaos.forks` to use, which several grounds may share; one of its own where None.
    """
    store = find_store(url, environ=environ)
    prefix = f"{bucket}/{FOLDER}/{secrets.token_hex(8)}"
    environ = {**environ, "TUNEYARD_STORE": store.url, "TUNEYARD_DEVICE": "cpu"}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tuneyard-chaos-"))
        if forks is None:
            forks = stack.enter_context(Program(FORKS if training else "tuneyard.chaos.writer", environ))
        made = Ground(store, prefix, Path(folder), environ, forks)
        with cleaning_up(made.clear):
            if training:
                made.lay_out()
            yield made


def _without_clocks(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in row.items() if name not in _CLOCKS and not name.endswith(("_runtime", "_second"))
    }
