"""The data script alone, as a process: `python -m tuneyard.deliver.script_process VALUES --workdir DIR`.

On Kubernetes it runs in a container without the store's keys; `python -m tuneyard.deliver` then finds what it wrote in
the same folder and delivers it. A container that is started again runs the script again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuneyard.deliver.datasets import run_apart
from tuneyard.process import run_main
from tuneyard.values import DeliverValues, read_values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.deliver.script_process", description="Run a dataScript.")
    parser.add_argument("values", type=Path, help="resolved values, as `tuneyard deliver --dry-run` prints them")
    parser.add_argument("--workdir", type=Path, required=True, help="the folder that the delivery gets too")
    return parser.parse_args()


def _main(arguments: argparse.Namespace) -> None:
    values = read_values(DeliverValues, arguments.values)
    workdir: Path = arguments.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    if values.dataScript:
        run_apart(values.dataScript, workdir, with_hub_token=bool(values.hfTokenSecret.name))


if __name__ == "__main__":
    parsed = _arguments()
    sys.exit(run_main(lambda: _main(parsed), workdir=parsed.workdir))
