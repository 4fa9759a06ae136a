"""`python -m tuneyard.train VALUES --workdir DIR`: train with the resolved values, in one process or several.

Reads the values file and the environment, nothing else. Ends with the documented exit codes: 0 finished (also if there
is nothing to do), 143 stopped and saved, 3 to 8 for errors.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuneyard.job import Inputs
    from tuneyard.store import Store
    from tuneyard.train.meeting import Meeting
    from tuneyard.train.signals import StopRequest
    from tuneyard.values import FinetuneValues

logger = logging.getLogger("tuneyard.train")  # __name__ is "__main__" here


def main(open_store: Callable[[FinetuneValues], Store] | None = None) -> int:
    """Train, and return the exit code.

    Args:
        open_store: Opens the store of the values; `open_values_store` if None.
    """
    # The base model and the data come from the store, never from a hub. huggingface_hub reads this when imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = _options()
    workdir: Path = options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)

    from tuneyard.process import run_main

    return run_main(
        lambda: _train(options.values.resolve(), workdir, options.wait_seconds, open_store), workdir=workdir
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.train", description="Train with resolved values.")
    parser.add_argument("values", type=Path, help="the resolved values, as one JSON file")
    parser.add_argument("--workdir", type=Path, required=True, help="the folder of this run on this machine")
    parser.add_argument(
        "--wait-seconds",
        type=float,
        default=os.environ.get("TUNEYARD_WAIT_SECONDS") or "0",
        help="how long to wait for a base model and data that are not delivered yet",
    )
    return parser.parse_args()


def _train(path: Path, workdir: Path, wait_seconds: float, open_store: Callable[[FinetuneValues], Store] | None) -> int:
    from tuneyard.errors import TERMINATED
    from tuneyard.job import experiment_key, find_inputs, is_complete, open_values_store, wait_for_delivery
    from tuneyard.train.links import key_of_run
    from tuneyard.train.meeting import facts_of, run_together
    from tuneyard.train.place import Place
    from tuneyard.train.progress_file import write_progress
    from tuneyard.train.signals import StopRequest
    from tuneyard.values import FinetuneValues, read_values

    stop = StopRequest().install()
    write_progress(workdir, phase="starting")

    values = read_values(FinetuneValues, path)
    os.environ.update({name: value for name, value in values.env.items() if isinstance(value, str)})
    place = Place.of(values.nodes)
    store = (open_store or open_values_store)(values)
    if not wait_for_delivery(values, store, wait_seconds, stop, logger.info):
        return TERMINATED
    inputs = find_inputs(values, store)
    if is_complete(values, store):
        write_progress(workdir, phase="finished")
        logger.info(f"'{experiment_key(values)}' is finished with these settings: nothing to do.")
        return 0

    def body(meeting: Meeting | None) -> int:
        return _prepare_and_train(path, workdir, values, inputs, store, stop, meeting)

    key = key_of_run(experiment_key(values)) if place.nodes > 1 else b""
    return run_together(place, key, facts_of(values, inputs), stop, logger.info, body)


def _prepare_and_train(
    path: Path,
    workdir: Path,
    values: FinetuneValues,
    inputs: Inputs,
    store: Store,
    stop: StopRequest,
    meeting: Meeting | None,
) -> int:
    from tuneyard.errors import TERMINATED
    from tuneyard.interpreter import faster_imports

    logger.info("Loading torch and transformers.")

    with faster_imports():
        from tuneyard.network import quiet_libraries
        from tuneyard.train.final import MERGE_STOPPED, merge_later
        from tuneyard.train.merge import MergeStopped
        from tuneyard.train.prepare import prepare
        from tuneyard.train.supervisor import Group, supervise
        from tuneyard.train.worker import work

    quiet_libraries()
    prepared = prepare(values, inputs, store, workdir, logger.info)
    if stop():
        return TERMINATED
    if prepared.trained:
        if meeting is None or meeting.place.node == 0:
            try:
                merge_later(values, prepared, store, workdir, stop)
            except MergeStopped:
                logger.info(MERGE_STOPPED)
                return TERMINATED
        return 0
    prepared.write(workdir)
    if values.processes == 1:
        return work(values, store, workdir, stop)
    arguments = [str(path), "--workdir", str(workdir)]
    group = Group(values.finetuningGpus)
    if meeting is None:
        return supervise("tuneyard.train.process", arguments, group=group, stop=stop)
    port = meeting.wait_until_ready(stop, logger.info)
    if port is None:
        return TERMINATED
    place = meeting.place
    group = Group(values.finetuningGpus, place.nodes, place.node, place.address, port, meeting.listener)
    return supervise("tuneyard.train.process", arguments, group=group, stop=stop, peer_failure=meeting.peer_failure)


if __name__ == "__main__":
    sys.exit(main())
