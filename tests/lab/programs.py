"""A child process that serves requests: a line of JSON on standard input each, answered by one on standard output."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tuneyard.interpreter import python

_TESTS = Path(__file__).parents[1]


class Program:
    """A running `python -m MODULE`. Use it in a `with` block.

    Args:
        module: The module.
        environ: Its environment.
    """

    def __init__(self, module: str, environ: Mapping[str, str]) -> None:
        self._module = module
        self._process = subprocess.Popen(
            python("-m", module),
            env={**environ, "PYTHONPATH": str(_TESTS), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def send(self, order: Mapping[str, Any]) -> None:
        """Send a request."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def receive(self) -> dict[str, Any]:
        """Wait for the next answer.

        Raises:
            AssertionError: The program ended instead.
        """
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> AssertionError:
        self._process.kill()
        errors = self._process.communicate()[1]
        return AssertionError(f"python -m {self._module} ended with {self._process.returncode}: {errors}")

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            assert self._process.stdin
            self._process.stdin.close()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
