"""Fixtures for every test: the S3 servers, what tools are missing, and this folder on the path for what tests share."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background job; programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["lab.missing_tools", "lab.s3_servers"]


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Undo what a command run in this process has set on the package's logger."""
    logger = logging.getLogger("tuneyard")
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
