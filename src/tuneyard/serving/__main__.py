"""`python -m tuneyard.serving VALUES --workdir DIR`: serve what a values file says, until a signal comes.

Reads the values file and the documented environment, nothing else. The key that clients have to send is that of
`TUNEYARD_API_KEY`, else of `VLLM_API_KEY`; without either, anyone who can reach the server may ask. Ends with the
documented exit codes: 143 after SIGTERM.
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
"""Of the grace period, what isn't for answers: five seconds of the chart's preStop, ten for ending the engine."""


def main() -> int:
    """Serve, and return the exit code."""
    options = _options()
    workdir: Path = options.workdir.resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    return run_main(lambda: _serve(options, workdir), workdir=workdir)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tuneyard.serving", description="Serve as a values file says.")
    parser.add_argument("values", type=Path, help="the resolved values, as one JSON file")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder of this server on this machine")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, help="the port; 0 for any that is free, the values' port if left out")
    parser.add_argument("--ready-file", type=Path, help="a file to write when every model answers")
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
    door = open_port(options.host, values.port if options.port is None else options.port)
    store = find_store(fallback=values.bucket_storage.host)
    key = key_of_environment()
    _check_key(values, key)
    # What can be refused is refused before gigabytes are pulled.
    device = choose_device(values.gpuResource, values.gpus, key="gpus")
    if vllm.is_installed():
        _serve_by_vllm(values, place_models(values, store, workdir), door, workdir, key, ready, on_cpu=device == "cpu")
        return
    settings = app_settings(values.vllm_engine_args)
    if device != "cpu" and values.gpus > 1:
        problem = Problem("gpus", "needs vLLM, which is not installed here", str(values.gpus), "1")
        raise InvalidValuesError(f"{values.gpus} accelerators for one server need vLLM.", problems=[problem])
    placement = place_models(values, store, workdir)
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is here now: nothing may ask a hub
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    serve_app(placement, settings, device, door, key=key, ready_file=ready, finish_seconds=_finish_seconds(values))


def _check_key(values: InferenceValues, key: str) -> None:
    """Refuse to serve everyone where the values name a key."""
    if values.apiKeySecret.name and not key:
        name, key_name = values.apiKeySecret.name, values.apiKeySecret.key
        raise InvalidValuesError(
            f"The server's key is empty, and apiKeySecret names one ({name}, key {key_name}); anyone could ask it.",
            hint=fitting(
                "Set it in the environment: export TUNEYARD_API_KEY=…",
                f"Make it anew: kubectl delete secret {name} && "
                f"kubectl create secret generic {name} --from-literal={key_name}=…",
            ),
            problems=[Problem("apiKeySecret", "holds no text", allowed="a text that clients have to send")],
        )


def _serve_by_vllm(
    values: InferenceValues,
    placement: Placement,
    door: socket,
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
    host, port = door.getsockname()[:2]
    door.close()
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
    """How long answers under way may go on after SIGTERM: what the pod has, less its preStop and the end of it all."""
    return max(5, values.terminationGracePeriodSeconds - _END_SECONDS)


def _environment(values: InferenceValues) -> dict[str, str]:
    """Take the values' `env_vars`; those of a Secret have to be there already, as a cluster puts them."""
    texts = {name: value for name, value in values.env_vars.items() if isinstance(value, str)}
    absent = [name for name in values.env_vars if name not in texts and name not in os.environ]
    if absent:
        problems = [Problem(f"env_vars.{name}", "comes from a Secret, and none is there") for name in absent]
        raise InvalidValuesError(
            f"{', '.join(absent)} should come from a Secret of the cluster.",
            hint=f"Set it in the environment: export {absent[0]}=…",
            problems=problems,
        )
    return texts


if __name__ == "__main__":
    sys.exit(main())
