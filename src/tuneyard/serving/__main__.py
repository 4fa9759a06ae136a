"""`python -m tuneyard.serving VALUES --workdir DIR`: serve the models of a values file until a signal.

Reads the values file and the documented environment, nothing else. Clients have to send the key in
`TUNEYARD_API_KEY`, else that in `VLLM_API_KEY`; without either, the server is open to anyone who can reach it. Exits
with the documented codes: 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from tuneyard.errors import InvalidValuesError, Problem
from tuneyard.process import run_main
from tuneyard.values import InferenceValues, read_values
from tuneyard.whereabouts import fitting

if TYPE_CHECKING:
    from tuneyard.serving.placement import Placement

_END_SECONDS = 15
"""The part of the grace period not left to running answers: 5 s of the chart's preStop, 10 s to end the engine."""


def main() -> int:
    """Serve, and return the exit code."""
    options = _options()
    workdir: Path = options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    return run_main(lambda: _serve(options, workdir), workdir=workdir)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.serving", description="Serve a values file's models.")
    parser.add_argument("values", type=Path, help="the resolved values, as one JSON file")
    parser.add_argument("--workdir", type=Path, required=True, help="the server's own folder on this machine")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port; 0 for any free one; the values' port by default")
    parser.add_argument("--ready-file", type=Path, help="a file to write once every model answers")
    return parser.parse_args()


def _serve(options: argparse.Namespace, workdir: Path) -> None:
    from tuneyard.device import choose_device
    from tuneyard.serving import vllm
    from tuneyard.serving.flags import app_settings
    from tuneyard.serving.guard import key_of_environment
    from tuneyard.serving.placement import place_models
    from tuneyard.serving.server import open_port, serve_app
    from tuneyard.store import find_store

    values = read_values(InferenceValues, options.values)
    os.environ.update(_environment(values))
    ready: Path | None = options.ready_file.resolve() if options.ready_file else None
    if ready:
        ready.unlink(missing_ok=True)
    listener = open_port(options.host, values.port if options.port is None else options.port)
    store = find_store(fallback=values.bucket_storage.host)
    key = key_of_environment()
    _check_key(values, key)
    # Refuse what can be refused before gigabytes are pulled.
    device = choose_device(values.gpuResource, values.gpus, key="gpus")
    if vllm.is_installed():
        _serve_by_vllm(
            values, place_models(values, store, workdir), listener, workdir, key, ready, on_cpu=device == "cpu"
        )
        return
    settings = app_settings(values.vllm_engine_args)
    if device != "cpu" and values.gpus > 1:
        problem = Problem("gpus", "needs vLLM, which is not installed", str(values.gpus), "1")
        raise InvalidValuesError(f"A server with {values.gpus} accelerators needs vLLM.", problems=[problem])
    placement = place_models(values, store, workdir)
    os.environ["HF_HUB_OFFLINE"] = "1"  # every file is here: no library may contact a hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve_app(placement, settings, device, listener, key=key, ready_file=ready, finish_seconds=_finish_seconds(values))


def _check_key(values: InferenceValues, key: str) -> None:
    """Refuse to start an open server where the values name a key."""
    if values.apiKeySecret.name and not key:
        name, key_name = values.apiKeySecret.name, values.apiKeySecret.key
        raise InvalidValuesError(
            f"The server's key is empty, but apiKeySecret names one (Secret '{name}', key '{key_name}').",
            hint=fitting(
                "Set it in the environment: export TUNEYARD_API_KEY=…",
                f"Recreate the Secret: kubectl delete secret {name} && "
                f"kubectl create secret generic {name} --from-literal={key_name}=…",
            ),
            problems=[Problem("apiKeySecret", "is empty", allowed="the key that clients have to send")],
        )


def _serve_by_vllm(
    values: InferenceValues,
    placement: Placement,
    listener: socket,
    workdir: Path,
    key: str,
    ready: Path | None,
    *,
    on_cpu: bool,
) -> None:
    from tuneyard.delivery import check_folder
    from tuneyard.serving import vllm
    from tuneyard.serving.readiness import local_url

    check_folder(placement.model.folder, where=placement.model.where)
    host, port = listener.getsockname()[:2]
    listener.close()
    finish = _finish_seconds(values)
    command = vllm.build_command(
        values, placement, host=host, port=port, guarded=bool(key), on_cpu=on_cpu, finish_seconds=finish
    )
    environment = vllm.build_environment(values, key, os.environ, workdir)
    vllm.serve_vllm(
        command,
        environment,
        placement.served,
        url=local_url(host, port),
        key=key,
        ready_file=ready,
        finish_seconds=finish,
    )


def _finish_seconds(values: InferenceValues) -> int:
    """Return how long running answers may continue after SIGTERM: the pod's grace period less `_END_SECONDS`."""
    return max(5, values.terminationGracePeriodSeconds - _END_SECONDS)


def _environment(values: InferenceValues) -> dict[str, str]:
    """Return the texts of `env_vars`; the cluster has to have set those that come from a Secret."""
    texts = {name: value for name, value in values.env_vars.items() if isinstance(value, str)}
    absent = [name for name in values.env_vars if name not in texts and name not in os.environ]
    if absent:
        problems = [Problem(f"env_vars.{name}", "comes from a Secret and is not set") for name in absent]
        raise InvalidValuesError(
            f"The environment lacks {', '.join(absent)}, which the values take from a Secret.",
            hint=f"Set it in the environment: export {absent[0]}=…",
            problems=problems,
        )
    return texts


if __name__ == "__main__":
    sys.exit(main())
