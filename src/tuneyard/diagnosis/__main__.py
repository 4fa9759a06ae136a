"""`python -m tuneyard.diagnosis`: probe the store that the environment names from where it is used, such as a pod.

It prints the report as one line of JSON. `tuneyard doctor store` runs the same probe for people.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from tuneyard.diagnosis.contention import ROUNDS
from tuneyard.diagnosis.store_probe import BUCKET, probe_store
from tuneyard.process import run_main


def main() -> int:
    """Probe the store, and print the report.

    Returns:
        The report's exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tuneyard.diagnosis")
    parser.add_argument("--store", help="store URL (default: TUNEYARD_STORE)")
    parser.add_argument("--bucket", default=BUCKET)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    ca_file = os.environ.get("TUNEYARD_CA_FILE")
    report = probe_store(
        args.store,
        bucket=args.bucket,
        rounds=args.rounds,
        quick=args.quick,
        # the CA file of a pod is optional
        ca_bundle=Path(ca_file) if ca_file and Path(ca_file).is_file() else None,
    )
    print(json.dumps(report.to_dict()), flush=True)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(run_main(main))
