"""The delivery as a process: `python -m tuneyard.delivery VALUES --workdir DIR [--downloads DIR]`.

Reads nothing but the file of resolved values and the documented environment. Logs to standard error; the last line on
standard output is the report as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tuneyard.delivery import deliver
from tuneyard.process import run_main
from tuneyard.store import find_store
from tuneyard.values import DeliverValues, read_values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.delivery", description="Deliver a model and datasets.")
    parser.add_argument("values", type=Path, help="resolved values, as `tuneyard deliver --dry-run` prints them")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder for the dataScript")
    parser.add_argument(
        "--downloads",
        type=Path,
        help="the folder that the dataScript has already written to; without it, the script runs in this process",
    )
    return parser.parse_args()


def _main(arguments: argparse.Namespace) -> None:
    values = read_values(DeliverValues, arguments.values)
    store = find_store(fallback=values.bucketStorageHost)
    report = deliver(values, store, workdir=arguments.workdir, downloads=arguments.downloads)
    print(json.dumps(report.to_dict()), flush=True)


if __name__ == "__main__":
    parsed = _arguments()
    sys.exit(run_main(lambda: _main(parsed), workdir=parsed.workdir))
