"""`python -m tuneyard.runners.kubernetes.pod_removal VALUES`: deletes what a run with these values has published.

Run inside the cluster by `tuneyard delete --data`, since a laptop may not reach the store. The command has confirmed
the deletion. Prints how many objects were deleted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> int:
    """Delete the published data, and return an exit code of `tuneyard.errors`."""
    from tuneyard.process import run_main

    parser = argparse.ArgumentParser(description="Delete what a run has published.")
    parser.add_argument("values", type=Path, help="the run's resolved values")
    path: Path = parser.parse_args().values
    return run_main(lambda: _remove(path))


def _remove(path: Path) -> None:
    from tuneyard.runners.published import delete_experiment
    from tuneyard.store import find_store
    from tuneyard.values import FinetuneValues, read_values

    values = read_values(FinetuneValues, path)
    assert values.checkpointsRemote, "a run in a cluster is launched with checkpointsRemote"
    store = find_store(fallback=values.bucketStorageHost)
    print(delete_experiment(store, values.checkpointsRemote), flush=True)


if __name__ == "__main__":
    sys.exit(main())
