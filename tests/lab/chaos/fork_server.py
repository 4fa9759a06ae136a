"""`python -m lab.chaos.fork_server`: a process that forks training processes, and kills them with SIGKILL on request.

A program of its own because a fork is only a fresh process where no thread runs: torch and transformers are imported
once, and each training takes a second or two. A fork runs `tuneyard.train.__main__` and nothing else. Requests arrive
as lines of JSON on standard input, and each is answered with one line; `testbed` sends them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lab.checkpoints import experiment, make_checkpoint, record
from lab.faulty_store import FaultyStore, RequestCounter
from lab.training import conversations, deliver
from tuneyard.checkpoints import RetentionPolicy
from tuneyard.process import run_main
from tuneyard.store import Store, find_store

if TYPE_CHECKING:
    from tuneyard.values import FinetuneValues

_POLL_SECONDS = 0.002


def main() -> None:
    """Serve requests until standard input ends."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    _preload()
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


def _preload() -> None:
    """Import what a training imports, so that no fork has to."""
    for name in (
        "matplotlib.figure",
        "peft.tuners.lora",
        "tokenizers",
        "transformers.models.llama.modeling_llama",
        "tuneyard.train.__main__",
        "tuneyard.train.worker",
    ):
        import_module(name)


def _serve(order: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _run_fork(order, writing)
    os.close(writing)
    status = _wait(pid, order, started)
    with os.fdopen(reading, "rb") as pipe:
        requests = int(pipe.read() or 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started, "requests": requests}


def _wait(pid: int, order: dict[str, Any], started: float) -> int:
    """Wait for a fork to end, kill it as the order requires, and return its wait status."""
    log = Path(order["workdir"], "log")
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        late = order.get("delay_seconds") is not None and time.monotonic() - started >= order["delay_seconds"]
        logged = order.get("until") and any(text in log.read_text(errors="replace") for text in order["until"])
        if late or logged:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(_POLL_SECONDS)


def _run_fork(order: dict[str, Any], writing: int) -> NoReturn:
    """Run what is ordered in this fork, write the number of store requests to the pipe, and exit."""
    code = 1
    try:
        os.environ.update(order.get("environ") or {})
        if "deliver" not in order:
            log = os.open(Path(order["workdir"], "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
        counter = RequestCounter(order.get("request"))
        run: Callable[[dict[str, Any], RequestCounter], int] = (
            _train if "values" in order else _publish if "publish" in order else _deliver
        )
        code = run(order, counter)
        os.write(writing, str(counter.count).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _train(order: dict[str, Any], counter: RequestCounter) -> int:
    from tuneyard.job.inputs import open_values_store
    from tuneyard.train.__main__ import main

    def counted(values: FinetuneValues) -> Store:
        return FaultyStore(open_values_store(values), after=counter)

    sys.argv = ["tuneyard.train", order["values"], "--workdir", order["workdir"]]
    return main(counted)


def _publish(order: dict[str, Any], counter: RequestCounter) -> int:
    """Resume from the newest checkpoint and publish further ones, without training."""
    workdir = Path(order["workdir"])
    store = FaultyStore(find_store(), after=counter)

    def resume() -> int:
        made = experiment(store, order["publish"])
        attempt = made.claim(record())
        restored = made.restore(workdir / "restored", on_damage=lambda sentence: print(sentence, file=sys.stderr))
        attempt.begin(restored.ref if restored else None)
        step = restored.ref.step if restored else 0
        print(f"Attempt {attempt.number}: resuming from step {step}.", file=sys.stderr, flush=True)
        for later in range(step + 1, order["steps"] + 1):
            attempt.publish(make_checkpoint(workdir / "made", later), later, {"best": None})
            attempt.prune(RetentionPolicy(keep=1))
        return 0

    return run_main(resume, workdir=workdir)


def _deliver(order: dict[str, Any], counter: RequestCounter) -> int:
    """Make the model and the dataset here too: the store's client has threads."""
    from lab.tiny_models import make_model

    folder = Path(order["workdir"])
    store = FaultyStore(find_store(), after=counter)
    deliver(store, folder, model=make_model(folder / "model"), rows=conversations(order["rows"]), **order["deliver"])
    return 0


if __name__ == "__main__":
    main()
