"""`python -m lab.chaos.contender`: a process that claims a run, publishes to it, and reports how that ended.

`contention` starts two of them. Requests arrive as lines of JSON on standard input: `claim`, then `publish`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lab.checkpoints import experiment, make_checkpoint, record
from tuneyard.checkpoints import Attempt
from tuneyard.errors import TuneyardError
from tuneyard.store import find_store

STEPS = (1, 2, 3)


def main() -> None:
    """Serve requests until standard input ends."""
    store = find_store()
    attempt: Attempt | None = None
    with tempfile.TemporaryDirectory(prefix="tuneyard-trials-") as folder:
        for line in sys.stdin:
            order = json.loads(line)
            answer: dict[str, Any] = {"code": 0}
            time.sleep(order.get("pause_seconds", 0))
            try:
                if "claim" in order:
                    attempt = experiment(store, order["claim"]).claim(record())
                    attempt.begin(None)
                    answer["attempt"] = attempt.number
                elif attempt:
                    _publish(attempt, Path(folder), order["publish"])
            except TuneyardError as error:
                answer |= {"code": error.exit_code, "message": error.message}
            print(json.dumps(answer), flush=True)


def _publish(attempt: Attempt, folder: Path, writer: str) -> None:
    for step in STEPS:
        attempt.publish(make_checkpoint(folder / f"{step}", step, writer=writer), step, {"best": None})
    attempt.publish_final(make_checkpoint(folder / "final", STEPS[-1], writer=writer), "checkpoint-final", {})


if __name__ == "__main__":
    main()
