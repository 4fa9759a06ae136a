"""`python -m tuneyard.chaos.forks`: a process that forks trainings, and kills them with SIGKILL when it is told to.

A program of its own, since a fork is a fresh process only where no thread runs: torch and transformers are imported
once, and each training costs a second or two. What a fork runs is `tuneyard.train.__main__`, nothing else. Orders come
as lines of JSON on standard input, and each is answered with one; `ground` gives them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.chaos.faulty import FaultyStore, RequestCounter
from tuneyard.chaos.marked import make, record
from tuneyard.checkpoints import Experiment, RetentionPolicy
from tuneyard.process import run_main
from tuneyard.store import Store, find_store

if TYPE_CHECKING:
    from tuneyard.values import FinetuneValues

_LOOK_SECONDS = 0.002


def main() -> None:
    """Obey orders until there are no more."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    _import_everything()
    for line in sys.stdin:
        print(json.dumps(_obey(json.loads(line))), flush=True)


def _import_everything() -> None:
    """Import what a training does, so that no fork has to."""
    for name in (
        "matplotlib.figure",
        "peft.tuners.lora",
        "tokenizers",
        "transformers.models.llama.modeling_llama",
        "tuneyard.train.__main__",
        "tuneyard.train.worker",
    ):
        import_module(name)


def _obey(order: dict[str, Any]) -> dict[str, Any]:
    if "lay_out" in order:
        return {"code": _ended(_fork_lay_out(order))}
    began = time.monotonic()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _be(order, tell)
    os.close(tell)
    status = _kill_in_time(pid, order, began)
    with os.fdopen(told, "rb") as pipe:
        requests = int(pipe.read() or 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began, "requests": requests}


def _kill_in_time(pid: int, order: dict[str, Any], began: float) -> int:
    """Wait for the training's end, and bring it about where the order says so; its wait status."""
    log = Path(order["workdir"], "log")
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        late = order.get("delay_seconds") is not None and time.monotonic() - began >= order["delay_seconds"]
        said = order.get("until") and any(text in log.read_text(errors="replace") for text in order["until"])
        if late or said:
            os.kill(pid, signal.SIGKILL)
            return os.waitpid(pid, 0)[1]
        time.sleep(_LOOK_SECONDS)


def _be(order: dict[str, Any], tell: int) -> None:
    """Be a training, or a process that only publishes, and never return."""
    code = 1
    try:
        os.environ.update(order.get("environ") or {})
        log = os.open(Path(order["workdir"], "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        counter = RequestCounter(order.get("request"))
        code = _train(order, counter) if "values" in order else _publish(order, counter)
        os.write(tell, str(counter.count).encode())
    finally:
        os._exit(code)


def _train(order: dict[str, Any], counter: RequestCounter) -> int:
    from tuneyard.job.inputs import open_values_store
    from tuneyard.train.__main__ import main

    def counted(values: FinetuneValues) -> Store:
        return FaultyStore(open_values_store(values), after=counter)

    sys.argv = ["tuneyard.train", order["values"], "--workdir", order["workdir"]]
    return main(counted)


def _publish(order: dict[str, Any], counter: RequestCounter) -> int:
    """Go on from what is there with checkpoints of marked bytes, without training."""
    workdir = Path(order["workdir"])
    store = FaultyStore(_store(), after=counter)

    def go_on() -> int:
        experiment = Experiment(store, order["publish"])
        attempt = experiment.claim(record())
        restored = experiment.restore(workdir / "restored", on_damage=lambda sentence: print(sentence, file=sys.stderr))
        attempt.begin(restored.ref if restored else None)
        step = restored.ref.step if restored else 0
        print(f"attempt {attempt.number}: resuming from step {step}", file=sys.stderr, flush=True)
        for later in range(step + 1, order["steps"] + 1):
            attempt.publish(make(workdir / "made", "a", later), later, {"best": None})
            attempt.prune(RetentionPolicy(keep=1))
        return 0

    return run_main(go_on, workdir=workdir)


def _store() -> Store:
    return find_store()


def _fork_lay_out(order: dict[str, Any]) -> int:
    """Make model and data in a fork too: the store's client has threads."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from tuneyard.chaos.material import lay_out

        os.environ.update(order["environ"])
        lay_out(_store(), order["lay_out"], Path(order["workdir"]))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
