"""The real `tuneyard` command, with its own home for each test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TUNEYARD = str(Path(sys.executable).with_name("tuneyard"))


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def is_a_mistake(self, code: int) -> None:
        """Check the form of every error: its exit code, a message, a hint, no traceback, nothing on stdout."""
        assert self.code == code, f"{self.code}\n{self.out}\n{self.err}"
        assert self.out == ""
        assert "Traceback" not in self.err
        assert [line.startswith("error: ") for line in self.err.splitlines()].count(True) == 1, self.err
        assert "hint: " in self.err, self.err


@pytest.fixture
def tuneyard(tmp_path: Path) -> Callable[..., Done]:
    """Run the command in `tmp_path`, with `TUNEYARD_HOME` at `tmp_path/home`."""

    def run(*words: str, **environment: str) -> Done:
        inherited = {name: value for name, value in os.environ.items() if name != "TUNEYARD_STORE"}
        own = {**inherited, "TUNEYARD_HOME": str(tmp_path / "home"), "PYTHONWARNINGS": "error", **environment}
        done = subprocess.run(
            [TUNEYARD, *words],
            env=own,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run
