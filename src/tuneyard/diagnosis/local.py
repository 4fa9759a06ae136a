"""Check the prerequisites of the local target. torch is loaded in a child process only."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tuneyard.diagnosis.check import Check, Report, from_error, ok, problem, report, skipped, warning
from tuneyard.diagnosis.store_probe import BUCKET, probe_store
from tuneyard.errors import AcceleratorMissingError, NotFoundError, TuneyardError, UsageError
from tuneyard.folders import home_folder
from tuneyard.interpreter import python

Progress = Callable[[str], None]

PACKAGES = {
    "train": ("torch", "transformers", "peft", "accelerate", "datasets"),
    "serve": ("torch", "transformers", "peft", "fastapi", "uvicorn"),
}
"""The packages of each extra that runs need."""
_LOW_MEMORY_BYTES = 4 * 2**30
_LOW_DISK_BYTES = 10 * 2**30
_DEVICE_TIMEOUT_SECONDS = 120
# prints the devices that torch finds, and the time of matrix products in float32 and bfloat16
_DEVICE_SCRIPT = """
import json, time, torch
def seconds(dtype):
    left = torch.ones(512, 512, dtype=dtype)
    left @ left
    start = time.perf_counter()
    for _ in range(8):
        left @ left
    return time.perf_counter() - start
cuda = torch.cuda.is_available()
print(json.dumps({
    "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    "cuda_bf16": cuda and torch.cuda.is_bf16_supported(),
    "mps": torch.backends.mps.is_available(),
    "float32_seconds": seconds(torch.float32),
    "bfloat16_seconds": seconds(torch.bfloat16),
}))
"""


def check_local(
    *,
    store: str | None = None,
    bucket: str = BUCKET,
    environ: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check the prerequisites of the local target.

    Args:
        store: The store's URL; `TUNEYARD_STORE` or the default folder where None.
        bucket: The bucket to write to.
        environ: The environment; this process's where None.
        progress: Called with the name of each group of checks before it starts.
    """
    environ = os.environ if environ is None else environ
    groups: dict[str, Callable[[], list[Check]]] = {
        "python": lambda: [_python(), *(_packages(extra, names) for extra, names in PACKAGES.items())],
        "device": lambda: _device(environ),
        "memory": lambda: [_memory(), _disk(environ)],
        "store": lambda: _store(store, bucket, environ),
        "hub": lambda: [_hub(environ)],
        "tools": lambda: [_tool("helm", environ), _tool("kubectl", environ)],
    }
    checks: list[Check] = []
    for name, run in groups.items():
        if progress:
            progress(name)
        checks += run()
    return report("this machine", checks)


def _python() -> Check:
    return ok("python", f"Python {platform.python_version()}, tuneyard {version('tuneyard')}")


def _packages(extra: str, names: tuple[str, ...]) -> Check:
    found, missing = list[str](), list[str]()
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    name = f"{extra} packages"
    if missing:
        return problem(name, f"not installed: {', '.join(missing)}", f"pip install 'tuneyard[{extra}]'", NotFoundError)
    return ok(name, ", ".join(found))


def _device(environ: Mapping[str, str]) -> list[Check]:
    configured = environ.get("TUNEYARD_DEVICE", "")
    if configured not in ("", "cpu", "cuda", "mps"):
        advice = "Unset TUNEYARD_DEVICE, or set it to cpu, cuda or mps."
        return [
            problem("device", f"TUNEYARD_DEVICE is {configured!r}; allowed are cpu, cuda and mps", advice, UsageError)
        ]
    try:
        version("torch")
    except PackageNotFoundError:
        return [skipped("device", "torch is not installed"), skipped("bfloat16", "torch is not installed")]
    try:
        ran = subprocess.run(
            python("-c", _DEVICE_SCRIPT),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_DEVICE_TIMEOUT_SECONDS,
            check=False,
            env=dict(environ),
        )
        devices: dict[str, Any] = json.loads(ran.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        advice = f'{sys.executable} -c "import torch; print(torch.rand(1))"'
        return [problem("device", "torch can't be imported, or hangs", advice, TuneyardError)]
    return [_selected(configured, devices), _bfloat16(configured, devices)]


def _selected(configured: str, devices: Mapping[str, Any]) -> Check:
    cuda: list[str] = devices["cuda"]
    available = {"cuda": bool(cuda), "mps": bool(devices["mps"]), "cpu": True}
    if configured and not available[configured]:
        advice = "export TUNEYARD_DEVICE=cpu"
        found = f"TUNEYARD_DEVICE is {configured!r}, but torch finds no such device"
        return problem("device", found, advice, AcceleratorMissingError)
    if configured != "cpu" and cuda:
        return ok("device", f"cuda: {len(cuda)} x {cuda[0]}")
    if configured != "cpu" and devices["mps"]:
        return ok("device", "mps")
    if configured:
        return ok("device", f"cpu, {os.cpu_count()} cores (set by TUNEYARD_DEVICE)")
    found = f"cpu, {os.cpu_count()} cores (torch finds no accelerator); values with a gpuResource are rejected"
    return warning("device", found, "export TUNEYARD_DEVICE=cpu")


def _bfloat16(configured: str, devices: Mapping[str, Any]) -> Check:
    if configured != "cpu" and devices["cuda"]:
        if devices["cuda_bf16"]:
            return ok("bfloat16", "supported by the accelerator")
        advice = "--set finetuning_config.training_args.bf16=false"
        return warning("bfloat16", "not supported by the accelerator", advice)
    slowdown = devices["bfloat16_seconds"] / max(devices["float32_seconds"], 1e-9)
    found = f"{slowdown:.1f} times the time of float32 on this CPU"
    if slowdown > 2:
        return warning("bfloat16", found, "--set finetuning_config.training_args.bf16=false")
    return ok("bfloat16", found)


def _memory() -> Check:
    import psutil
    from rich.filesize import decimal

    memory = psutil.virtual_memory()
    found = f"{decimal(memory.available)} of {decimal(memory.total)} available"
    if memory.available < _LOW_MEMORY_BYTES:
        return warning("memory", found, "Run tuneyard plan to estimate what a run needs.")
    return ok("memory", found)


def _disk(environ: Mapping[str, str]) -> Check:
    from rich.filesize import decimal

    home = home_folder(environ)
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return problem("disk", f"'{existing}' is not writable", "export TUNEYARD_HOME=/path/to/folder", UsageError)
    free = shutil.disk_usage(existing).free
    found = f"{decimal(free)} free for '{home}'"
    if free < _LOW_DISK_BYTES:
        return warning("disk", found, "export TUNEYARD_HOME=/path/on/larger/disk")
    return ok("disk", found)


def _store(url: str | None, bucket: str, environ: Mapping[str, str]) -> list[Check]:
    found = probe_store(url, bucket=bucket, quick=True, environ=environ)
    failed = [check for check in found.checks if check.outcome != "ok"]
    return failed or [found.named("store")]


def _hub(environ: Mapping[str, str]) -> Check:
    import httpx2

    endpoint = environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return warning("hub", "offline: HF_HUB_OFFLINE is set", "Deliver from a folder: --set modelID=/path/to/model")
    try:
        response = httpx2.get(f"{endpoint.rstrip('/')}/api/models?limit=1", timeout=10, follow_redirects=True)
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        reason = "request timed out" if isinstance(error, httpx2.TimeoutException) else "connection failed"
        advice = "Set HF_ENDPOINT to a mirror, HTTPS_PROXY to a proxy, or deliver from a folder."
        return warning("hub", f"'{endpoint}' is unreachable: {reason}", advice)
    if response.status_code >= 500:
        return warning("hub", f"'{endpoint}' responds with HTTP {response.status_code}", "Retry later.")
    return ok("hub", f"'{endpoint}' is reachable")


def _tool(name: str, environ: Mapping[str, str]) -> Check:
    if not shutil.which(name, path=environ.get("PATH")):
        return skipped(name, "not found on PATH; required by --on kubernetes only")
    return tool_version(name, environ)


def tool_version(name: str, environ: Mapping[str, str]) -> Check:
    """Check that helm or kubectl runs and is recent enough, and report its version.

    Args:
        name: `helm` or `kubectl`.
        environ: The environment with the PATH to find it on.
    """
    from tuneyard.cluster import Tools

    try:
        return ok(name, Tools(None, "", environ=environ).version(name))
    except TuneyardError as error:
        return from_error(name, error)
