"""`python stopped_training.py VALUES --workdir DIR`: a training that receives SIGTERM in the middle of a step.

The real entry point on the real store, wrapped once: when the checkpoint of step `STOP_AFTER` is about to be committed
and the training waits for that, this process sends itself SIGTERM. The next step has begun by then and can't complete
before the commit, so the training always ends with that step.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

from lab.faulty_store import FaultyStore
from tuneyard.job.inputs import open_values_store
from tuneyard.train.__main__ import main

STOP_AFTER = 3
_LIMIT_SECONDS = 120


def _training_waits() -> bool:
    frame: FrameType | None = sys._current_frames()[threading.main_thread().ident or 0]
    while frame is not None:
        if frame.f_code.co_name == "await_commit":
            return True
        frame = frame.f_back
    return False


def _stop(verb: str, key: str) -> None:
    if verb != "create" or not key.endswith(f"/checkpoint-{STOP_AFTER}-1/manifest.json"):
        return
    until = time.monotonic() + _LIMIT_SECONDS
    while not _training_waits():
        assert time.monotonic() < until, "the training did not begin the next step"
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(lambda values: FaultyStore(open_values_store(values), before=_stop)))
