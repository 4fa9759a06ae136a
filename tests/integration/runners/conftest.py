"""A local runner whose verbs execute a small program of the tests: real processes, real locks, real signals."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tuneyard.runners import Launch, LocalRunner, RunKey
from tuneyard.runners.local.folder import RunFolder
from tuneyard.values import Values


class ProgramValues(Values):
    """The behaviour of the test's program; it saves on SIGTERM, as training does."""

    seconds: float = 0
    ignores_sigterm: bool = False
    prints: tuple[str, ...] = ()
    code: int = 0
    peft: dict[str, int] | None = None


PROGRAM = """
import json, os, pathlib, signal, sys, time
values_path, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
values = json.loads(values_path.read_text())

def save(*_):
    (work / "saved").write_text("saved")
    print("saved", flush=True)
    sys.exit(143)

signal.signal(signal.SIGTERM, signal.SIG_IGN if values.get("ignores_sigterm") else save)
(work / "starts").open("a").write(f"{os.getpid()}\\n")
print(f"started with store {os.environ['TUNEYARD_STORE']}", flush=True)
until = time.monotonic() + values.get("seconds", 0)
while time.monotonic() < until and not (work / "go").exists():
    time.sleep(0.02)
for line in values.get("prints", []):
    print(line, file=sys.stderr, flush=True)
sys.exit(values.get("code", 0))
"""


class Bench:
    """A runner, its home, and shortcuts for the tests."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.program = home / "program.py"
        home.mkdir(parents=True, exist_ok=True)
        self.program.write_text(PROGRAM)
        self.runner = LocalRunner(home, commands=dict.fromkeys(("deliver", "finetune", "serve"), self._command))

    def _command(self, folder: RunFolder, _launch: Launch) -> list[str]:
        return [sys.executable, str(self.program), str(folder.values), str(folder.work)]

    def spec(self, name: str = "lora", *, verb: str = "finetune", store: str = "file:///s", **values: object) -> Launch:
        given: Any = ProgramValues(**values)
        return Launch(RunKey(verb, name), given, store, experiment=f"default-bucket/experiments/{name}")  # type: ignore[arg-type]

    def folder(self, name: str = "lora", verb: str = "finetune") -> Path:
        return self.home / "runs" / verb / name

    def starts(self, name: str = "lora") -> list[int]:
        path = self.folder(name) / "work" / "starts"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def pids(self, name: str = "lora") -> dict[str, int]:
        who = json.loads((self.folder(name) / "process.json").read_text())
        return {role: who[role]["pid"] for role in ("supervisor", "child")}


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something that has to come; the limit only ends a broken test."""
    for _ in range(15_000):
        if true():
            return
        time.sleep(0.02)
    pytest.fail(f"never happened: {what}")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "home")
    yield made
    for path in made.home.glob("runs/*/*/process.json"):
        who = json.loads(path.read_text())
        for role in ("supervisor", "child"):
            try:
                process = psutil.Process(who.get(role, {}).get("pid", -1))
                if str(path.parent) in " ".join(process.cmdline()):
                    os.kill(process.pid, 9)
            except (psutil.NoSuchProcess, ValueError, ProcessLookupError):
                continue


@pytest.fixture
def wait_until() -> Callable[[Callable[[], object], str], None]:
    return until
