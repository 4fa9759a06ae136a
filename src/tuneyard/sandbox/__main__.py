"""`python -m tuneyard.sandbox PLAN COMMAND…`: locks itself as the plan says, and becomes the command."""

from __future__ import annotations

import json
import os
import sys

from tuneyard.sandbox.locks import Locks
from tuneyard.sandbox.plan import Plan, lock

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    lock(Plan(**given["plan"]), Locks(**given["locks"]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  (an argument list, and no shell)
