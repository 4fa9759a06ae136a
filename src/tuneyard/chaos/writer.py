"""`python -m tuneyard.chaos.writer`: a process that takes a run over, publishes, and tells how that ended.

Two of them are the two writers of `writers`. Orders come as lines of JSON on standard input: `claim`, then `publish`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tuneyard.chaos.marked import make, record
from tuneyard.checkpoints import Attempt, Experiment
from tuneyard.errors import TuneyardError
from tuneyard.store import find_store

STEPS = (1, 2, 3)


def main() -> None:
    """Obey orders until there are no more."""
    store = find_store()
    attempt: Attempt | None = None
    with tempfile.TemporaryDirectory(prefix="tuneyard-chaos-") as folder:
        for line in sys.stdin:
            order = json.loads(line)
            answer: dict[str, Any] = {"code": 0}
            time.sleep(order.get("pause_seconds", 0))
            try:
                if "claim" in order:
                    attempt = Experiment(store, order["claim"]).claim(record())
                    attempt.begin(None)
                    answer["attempt"] = attempt.number
                elif attempt:
                    _publish(attempt, Path(folder), order["publish"])
            except TuneyardError as error:
                answer |= {"code": error.exit_code, "kind": type(error).__name__, "said": error.message}
            print(json.dumps(answer), flush=True)


def _publish(attempt: Attempt, folder: Path, writer: str) -> None:
    for step in STEPS:
        attempt.publish(make(folder / "checkpoint", writer, step), step, {"best": None})
    attempt.publish_final(make(folder / "checkpoint", writer, STEPS[-1]), "checkpoint-final", {})


if __name__ == "__main__":
    main()
