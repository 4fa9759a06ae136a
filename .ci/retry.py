"""Runs `make VERB`, then whatever failed once more, alone, and keeps a record of the tests that passed only then.

    python3 .ci/retry.py run test
    python3 .ci/retry.py run cluster-test --files-in CLUSTER_TESTS --between "kubectl delete namespace silo"
    python3 .ci/retry.py report

On a loaded machine one test in some thousand misses a deadline. What fails twice fails `run`; `report` prints the
record, and fails when it names more than `LIMIT` tests. Needs Python alone, and runs in the repository's root.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

LIMIT = 3
CODE = Path("build/last-code")
RECORD = Path("build/retried.txt")
LAST_FAILED = Path(".pytest_cache/v/cache/lastfailed")
TESTS_FAILED = 1
"""Pytest's exit code for failed tests, as opposed to an interruption, an error of its own, or a wrong call."""


def main() -> int:
    """Run a verb of the Makefile, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    running = commands.add_parser("run", help="run a verb, and what failed once more")
    running.add_argument("verb")
    running.add_argument(
        "--files-in", metavar="VARIABLE", help="repeat whole files, named in this variable of the Makefile"
    )
    running.add_argument("--between", metavar="COMMAND", help="what to run before the second time")
    running.set_defaults(function=lambda given: run(given.verb, files_in=given.files_in, between=given.between))
    commands.add_parser("report", help="print the record").set_defaults(function=lambda given: report())
    given = parser.parse_args()
    return given.function(given)


def run(verb: str, *, files_in: str | None, between: str | None) -> int:
    """Run a verb and, where tests failed, those tests once more; return the exit code."""
    CODE.parent.mkdir(exist_ok=True)
    # What an earlier verb left behind says nothing about this one.
    CODE.unlink(missing_ok=True)
    LAST_FAILED.unlink(missing_ok=True)
    if _make(verb, f"PYTEST_REPORT={CODE}") == 0:
        return 0
    code = CODE.read_text(encoding="utf-8").strip() if CODE.exists() else "none"
    if code != str(TESTS_FAILED):
        print(f"make {verb} failed; exit code of pytest: {code}", flush=True)
        return 1
    failed = _failed()
    print(f"make {verb}: {len(failed)} failed, running them once more, alone:", *failed, sep="\n", flush=True)
    if between:
        subprocess.run(shlex.split(between), check=False)
    if files_in:
        files = sorted({name.partition("::")[0] for name in failed})
        repeated = _make(verb, f"{files_in}={' '.join(files)}")
    else:
        repeated = _make(verb, "PYTEST_ARGS=--last-failed", "WORKERS=0")
    still = set(_failed()) if repeated else set()
    with RECORD.open("a", encoding="utf-8") as record:
        record.writelines(f"make {verb}: {name}\n" for name in failed if name not in still)
    return 1 if repeated else 0


def report() -> int:
    """Print the tests that passed only when repeated; return 1 if there are more than `LIMIT`."""
    lines = RECORD.read_text(encoding="utf-8").splitlines() if RECORD.exists() else []
    if not lines:
        print("No test failed once and passed alone.")
        return 0
    print(f"Failed once and passed alone: {len(lines)}, at most {LIMIT} are allowed.", *lines, sep="\n")
    return 1 if len(lines) > LIMIT else 0


def _make(verb: str, *variables: str) -> int:
    return subprocess.run(["make", verb, *variables], check=False).returncode


def _failed() -> list[str]:
    """List the tests that pytest remembers as failed; a file that could not be collected is one of them."""
    return sorted(json.loads(LAST_FAILED.read_text(encoding="utf-8"))) if LAST_FAILED.exists() else []


if __name__ == "__main__":
    sys.exit(main())
