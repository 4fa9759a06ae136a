"""The `dataScript` alone: `python -m tuneyard.delivery.script_process VALUES --workdir DIR --downloads DIR`.

On Kubernetes it runs in a container without the store's credentials; `python -m tuneyard.delivery` with the same
`--downloads` then delivers what it wrote. The containers share that folder alone. Each start runs the script.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuneyard.delivery.script import check_sandbox, empty, produced_files, run_script
from tuneyard.process import run_main
from tuneyard.values import DeliverValues, read_values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.delivery.script_process", description="Run a dataScript.")
    parser.add_argument("values", type=Path, help="resolved values, as `tuneyard deliver --dry-run` prints them")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder for this process alone")
    parser.add_argument(
        "--downloads", type=Path, required=True, help="the folder that the script writes to, shared with the delivery"
    )
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
        downloads=empty(arguments.downloads),
        locks=locks,
    )
    produced_files(output)


if __name__ == "__main__":
    parsed = _arguments()
    sys.exit(run_main(lambda: _main(parsed), workdir=parsed.workdir))
