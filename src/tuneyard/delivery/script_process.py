"""The data script alone: `python -m tuneyard.delivery.script_process VALUES --workdir DIR --downloads DIR`.

On Kubernetes it runs in a container without the store's keys, and `python -m tuneyard.delivery … --downloads DIR` then
delivers what it wrote: that folder is all that the two containers share. Started again, it runs the script again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuneyard.delivery.script import check_sandbox, emptied, produced_files, run_script
from tuneyard.process import run_main
from tuneyard.values import DeliverValues, read_values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.delivery.script_process", description="Run a dataScript.")
    parser.add_argument("values", type=Path, help="resolved values, as `tuneyard deliver --dry-run` prints them")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder of this process alone")
    parser.add_argument("--downloads", type=Path, required=True, help="the folder that the delivery gets too")
    return parser.parse_args()


def _main(arguments: argparse.Namespace) -> None:
    values = read_values(DeliverValues, arguments.values)
    if not values.dataScript:
        return
    locks = check_sandbox(required=values.dataScriptSandbox == "required")
    output = run_script(
        values.dataScript,
        arguments.workdir,
        with_hub_token=bool(values.hfTokenSecret.name),
        downloads=emptied(arguments.downloads),
        locks=locks,
    )
    produced_files(output)


if __name__ == "__main__":
    parsed = _arguments()
    sys.exit(run_main(lambda: _main(parsed), workdir=parsed.workdir))
