"""From a target's name to its runner; the one place that knows which targets there are."""

from __future__ import annotations

from typing import Literal

from tuneyard.errors import UsageError
from tuneyard.runs.base import Runner
from tuneyard.runs.local import LocalRunner

Target = Literal["local", "kubernetes"]


def runner_for(target: Target) -> Runner:
    """Give the runner of a target.

    Raises:
        UsageError: If this version has none for it.
    """
    if target == "local":
        return LocalRunner()
    raise UsageError(
        f"The target {target!r} is not in this version of Tuneyard.",
        hint="Leave --on out, or say --on local, to run on this machine.",
        target=target,
    )
