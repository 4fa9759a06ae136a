"""`python -m tuneyard.sandbox PLAN_FILE COMMAND…`: applies the plan to itself, then executes the command."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tuneyard.sandbox.locks import Locks
from tuneyard.sandbox.plan import Plan, lock

if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    lock(Plan(**given["plan"]), Locks(**given["locks"]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  (an argument list, not a shell)
