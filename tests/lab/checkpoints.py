"""What the tests of checkpoints share: folders that look like a trainer's, and stores that fail where they are told to.

The failing stores are real stores with a fault put in front, handed in as any store is.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuneyard.checkpoints import Experiment, RunRecord
from tuneyard.store import Store

PREFIX = "bucket/experiments/run"
FILES = {
    "model.safetensors": 40_000,
    "optimizer.pt": 80_000,
    "scheduler.pt": 500,
    "rng_state.pth": 5_000,
    "trainer_state.json": 900,
    "extra/tokenizer.json": 300,
}
REQUIRED = frozenset({"optimizer.pt", "scheduler.pt", "rng_state*.pth", "trainer_state.json"})
WRITES = ("put", "create", "replace", "delete", "write")


def content(step: int, name: str, *, scale: float = 1.0) -> bytes:
    """Bytes that tell their step and name apart from any other."""
    seed = hashlib.sha256(f"{step} {name}".encode()).digest()
    size = int(FILES[name] * scale)
    return (seed * (size // len(seed) + 1))[:size]


def make_checkpoint(folder: Path, step: int, *, scale: float = 1.0) -> Path:
    """Write a checkpoint's files as the trainer would have them at that step."""
    for name in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(step, name, scale=scale))
    return folder


def is_checkpoint_of(folder: Path, step: int, *, scale: float = 1.0) -> bool:
    """Tell whether a folder holds exactly what `make_checkpoint` wrote for that step."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found == {name: content(step, name, scale=scale) for name in FILES}


def record(**fingerprint: Any) -> RunRecord:
    """A run's record with this fingerprint."""
    return RunRecord(
        name="run",
        values={"method": "sft"},
        values_sha256="0" * 64,
        versions={"tuneyard": "0"},
        inputs={"bucket/models/tiny": "1" * 64},
        fingerprint=fingerprint,
    )


def experiment(store: Store, prefix: str = PREFIX) -> Experiment:
    return Experiment(store, prefix, required=REQUIRED)


def no_damage(sentence: str) -> None:
    raise AssertionError(f"unexpected damage: {sentence}")


def publish_steps(store: Store, folder: Path, *steps: int) -> None:
    """Publish these steps in one attempt of their own."""
    attempt = experiment(store).claim(record())
    restored = experiment(store).restore(folder / "restored", on_damage=no_damage)
    attempt.begin(restored.ref if restored else None)
    for step in steps:
        attempt.publish(make_checkpoint(folder / f"made-{step}", step), step, {"best": None})


class DiedError(BaseException):
    """Stands for the end of the process: nothing after it runs."""


def run_kill_trials(
    url: str, prefix: str, folder: Path, *, trials: int, seed: int, env: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """Let `kill_nursery` publish and be killed so often; give what each child told before its end."""
    here = Path(__file__).parents[1]
    program = str(here / "unit/checkpoints/kill_nursery.py")
    finished = subprocess.run(
        [sys.executable, program, url, prefix, str(folder), str(trials), str(seed)],
        env={**env, "PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(lines) == trials
    return lines


def check_kill_trials(store: Store, prefix: str, folder: Path, trials: list[list[dict[str, Any]]]) -> None:
    """Check that each trial went on from the newest committed checkpoint, whole, with its metrics."""
    last_committed = resumed = 0
    for number, told in enumerate(trials):
        where = f"trial {number}: {told}"
        for fact in told:
            assert "error" not in fact, where
            assert "damage" not in fact, where
            if "restored" in fact:
                resumed += 1
                assert fact["right"], where
                # a kill between the commit and the word of it may leave one step more than was told
                assert last_committed <= fact["restored"] <= last_committed + 1, where
                last_committed = fact["restored"]
            if "rows" in fact:
                assert fact["rows"] == list(range(1, last_committed + 1)), where
            last_committed = fact.get("committed", last_committed)
    assert resumed > len(trials) / 3, "the kills came too early to show anything"
    restored = experiment(store, prefix).restore(folder / "last", on_damage=no_damage)
    assert restored is not None
    assert is_checkpoint_of(restored.path, restored.ref.step, scale=4.0)
    assert restored.best is not None
