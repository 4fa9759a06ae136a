"""A program beside this process that takes orders: one line of JSON each, answered with one.

`forks` and `writer` are such programs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tuneyard.errors import TuneyardError
from tuneyard.interpreter import python


class Program:
    """A running `python -m MODULE`. Use it in a `with` block.

    Args:
        module: The module.
        environ: Its environment.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._module = module
        # An import path given to this process alone holds there too, but for the folder it happens to be in.
        path = os.pathsep.join(entry for entry in sys.path if entry and not _is_here(entry))
        self._process = subprocess.Popen(
            python("-m", module),
            env={**environ, "PYTHONPATH": path, "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS", "1")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def tell(self, order: Mapping[str, Any]) -> None:
        """Give an order."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            TuneyardError: The program has ended instead.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        return json.loads(line)

    def _ended(self) -> TuneyardError:
        self._process.kill()
        said = self._process.communicate()[1]
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        return TuneyardError(
            f"python -m {self._module} ended with {self._process.returncode}: {last}.",
            hint='Training parts are needed here: pip install "tuneyard[train]"' if "No module" in last else "",
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()


def _is_here(entry: str) -> bool:
    return Path(entry).absolute() == Path.cwd()
