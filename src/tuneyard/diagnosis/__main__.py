"""`python -m tuneyard.diagnosis`: probes the store of the environment, where it is used, for instance in a pod.

It prints the report as one line of JSON. `tuneyard doctor store` is the same for people.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tuneyard.diagnosis.contenders import ROUNDS
from tuneyard.diagnosis.store_probe import BUCKET, probe_store
from tuneyard.process import run_main


def main() -> int:
    """Probe the store, and print the report.

    Returns:
        The report's exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tuneyard.diagnosis")
    parser.add_argument("--store", help="the store's URL; that of TUNEYARD_STORE if left out")
    parser.add_argument("--bucket", default=BUCKET)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    authorities = os.environ.get("TUNEYARD_CA_FILE")
    found = probe_store(
        given.store,
        bucket=given.bucket,
        rounds=given.rounds,
        quick=given.quick,
        # a pod's file of authorities is optional
        ca_bundle=Path(authorities) if authorities and Path(authorities).is_file() else None,
    )
    print(json.dumps(found.to_dict()), flush=True)
    return found.exit_code


if __name__ == "__main__":
    sys.exit(run_main(main))
