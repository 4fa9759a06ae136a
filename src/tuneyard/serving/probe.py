"""`python -m tuneyard.serving.probe --port PORT`: check that the local server answers, for Kubernetes' probes.

Requests one token of each model in `/v1/models`, with the pod's own key. Plain Python, since it runs every few seconds:
no torch, no client library. Exits with 0 when every model answers, else with 1 and the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from typing import Any, cast

from tuneyard.errors import TuneyardError
from tuneyard.serving.guard import key_of_environment
from tuneyard.serving.readiness import complete_once


def main() -> int:
    """Probe the server, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tuneyard.serving.probe", description="Check the local server.")
    parser.add_argument("--port", type=int, required=True, help="the port it listens on")
    parser.add_argument("--timeout-seconds", type=float, default=15.0, help="the timeout of each request")
    options = parser.parse_args()
    url, key = f"http://127.0.0.1:{options.port}", key_of_environment()
    try:
        for model in _models(url, key, options.timeout_seconds):
            complete_once(url, key, model, timeout_seconds=options.timeout_seconds)
    except (TuneyardError, OSError, ValueError, LookupError) as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    return 0


def _models(url: str, key: str, timeout_seconds: float) -> list[str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)  # noqa: S310  (http, to this machine)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=timeout_seconds) as response:
        listed = cast("dict[str, Any]", json.loads(response.read()))
    models = [str(card["id"]) for card in listed["data"]]
    if not models:
        raise LookupError("it serves no model")
    return models


if __name__ == "__main__":
    sys.exit(main())
