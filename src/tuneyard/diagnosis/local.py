"""The prerequisites of this machine: what the local target needs, looked at without loading torch here."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tuneyard.diagnosis.check import Check, Report, of_error, ok, problem, report, skipped, warning
from tuneyard.diagnosis.store_probe import BUCKET, probe_store
from tuneyard.errors import AcceleratorMissingError, NotFoundError, TuneyardError, UnavailableError, UsageError
from tuneyard.folders import home_folder
from tuneyard.interpreter import python

Progress = Callable[[str], None]

_TRAIN = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
_SERVE = ("torch", "transformers", "peft", "fastapi", "uvicorn")
_LITTLE_MEMORY = 4 * 2**30
_LITTLE_DISK = 10 * 2**30
_DEVICE_SECONDS = 120
# the child tells what torch sees, and how long a product of matrices takes in float32 and bfloat16
_DEVICE = """
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
    """Look at everything that the local target needs.

    Args:
        store: The store's URL; where None, `TUNEYARD_STORE` or the default folder.
        bucket: The bucket to write into.
        environ: The environment; the process's own where None.
        progress: Called with the name of each check before it is made.
    """
    environ = os.environ if environ is None else environ
    looks: dict[str, Callable[[], list[Check]]] = {
        "python": lambda: [_python(), _packages("train", _TRAIN), _packages("serve", _SERVE)],
        "device": lambda: _device(environ),
        "memory": lambda: [_memory(), _disk(environ)],
        "store": lambda: _store(store, bucket, environ),
        "hub": lambda: [_hub(environ)],
        "tools": lambda: [_tool("helm", environ), _tool("kubectl", environ)],
    }
    checks: list[Check] = []
    for name, look in looks.items():
        if progress:
            progress(name)
        checks += look()
    return report("this machine", checks)


def _python() -> Check:
    import tuneyard

    return ok("python", f"Python {platform.python_version()}, tuneyard {tuneyard.__version__}")


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
    named = environ.get("TUNEYARD_DEVICE", "")
    if named not in ("", "cpu", "cuda", "mps"):
        advice = "unset TUNEYARD_DEVICE, or set it to cpu, cuda or mps"
        return [problem("device", f"TUNEYARD_DEVICE is {named!r}", advice, UsageError)]
    try:
        version("torch")
    except PackageNotFoundError:
        return [skipped("device", "torch is not installed"), skipped("bfloat16", "torch is not installed")]
    try:
        ran = subprocess.run(
            python("-c", _DEVICE),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_DEVICE_SECONDS,
            check=False,
            env=dict(environ),
        )
        seen: dict[str, Any] = json.loads(ran.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        advice = f'{sys.executable} -c "import torch; print(torch.rand(1))"'
        return [problem("device", "torch can't be loaded, or does not answer", advice, TuneyardError)]
    return [_seen(named, seen), _bfloat16(named, seen)]


def _seen(named: str, seen: Mapping[str, Any]) -> Check:
    cuda: list[str] = seen["cuda"]
    there = {"cuda": bool(cuda), "mps": bool(seen["mps"]), "cpu": True}
    if named and not there[named]:
        advice = "export TUNEYARD_DEVICE=cpu"
        return problem("device", f"TUNEYARD_DEVICE is {named}, and torch sees none", advice, AcceleratorMissingError)
    if named != "cpu" and cuda:
        return ok("device", f"cuda: {len(cuda)} x {cuda[0]}")
    if named != "cpu" and seen["mps"]:
        return ok("device", "mps")
    why = "TUNEYARD_DEVICE" if named else "torch sees no accelerator"
    if named:
        return ok("device", f"cpu, {os.cpu_count()} cores (by {why})")
    found = f"cpu, {os.cpu_count()} cores ({why}); values with a gpuResource are refused"
    return warning("device", found, "export TUNEYARD_DEVICE=cpu")


def _bfloat16(named: str, seen: Mapping[str, Any]) -> Check:
    if named != "cpu" and seen["cuda"]:
        if seen["cuda_bf16"]:
            return ok("bfloat16", "the accelerator computes in bfloat16")
        advice = "--set finetuning_config.training_args.bf16=false"
        return warning("bfloat16", "the accelerator does not compute in bfloat16", advice)
    times = seen["bfloat16_seconds"] / max(seen["float32_seconds"], 1e-9)
    if times > 2:
        advice = "--set finetuning_config.training_args.bf16=false is faster on this CPU."
        return warning("bfloat16", f"this CPU takes {times:.1f} times as long as in float32", advice)
    return ok("bfloat16", f"this CPU takes {times:.1f} times as long as in float32")


def _memory() -> Check:
    import psutil
    from rich.filesize import decimal

    seen = psutil.virtual_memory()
    found = f"{decimal(seen.available)} of {decimal(seen.total)} free"
    if seen.available < _LITTLE_MEMORY:
        return warning("memory", found, "tuneyard plan says what a run needs.")
    return ok("memory", found)


def _disk(environ: Mapping[str, str]) -> Check:
    from rich.filesize import decimal

    home = home_folder(environ)
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return problem("disk", f"{there} can't be written", "export TUNEYARD_HOME=/a/folder/of/yours", UsageError)
    free = shutil.disk_usage(there).free
    found = f"{decimal(free)} free for {home}"
    if free < _LITTLE_DISK:
        return warning("disk", found, "export TUNEYARD_HOME=/a/folder/on/a/larger/disk")
    return ok("disk", found)


def _store(url: str | None, bucket: str, environ: Mapping[str, str]) -> list[Check]:
    found = probe_store(url, bucket=bucket, quick=True, environ=environ)
    bad = [check for check in found.checks if check.outcome != "ok"]
    return bad or [found.named("store")]


def _hub(environ: Mapping[str, str]) -> Check:
    import httpx2

    endpoint = environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return warning("hub", "HF_HUB_OFFLINE is set", "Deliver from a folder: --set modelID=/path/to/model")
    try:
        answer = httpx2.get(f"{endpoint.rstrip('/')}/api/models?limit=1", timeout=10, follow_redirects=True)
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        why = "no answer in time" if isinstance(error, httpx2.TimeoutException) else "no connection"
        advice = "Set HF_ENDPOINT to a mirror, HTTPS_PROXY to a proxy, or deliver from a folder."
        return warning("hub", f"{endpoint} can't be reached: {why}", advice)
    if answer.status_code >= 500:
        return warning("hub", f"{endpoint} answers with HTTP {answer.status_code}", "Try again later.")
    return ok("hub", f"{endpoint} answers")


def _tool(name: str, environ: Mapping[str, str]) -> Check:
    found = shutil.which(name, path=environ.get("PATH"))
    if not found:
        return skipped(name, "not on PATH; only --on kubernetes needs it")
    return tool_version(name, Path(found))


def tool_version(name: str, path: Path) -> Check:
    """Ask helm or kubectl for its version.

    Args:
        name: `helm` or `kubectl`.
        path: Where it is.
    """
    words = ["version", "--client", "-o", "json"] if name == "kubectl" else ["version", "--template", "{{.Version}}"]
    try:
        ran = subprocess.run(
            [str(path), *words], capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return problem(name, f"{path} can't be run", f"Install {name} again.", UnavailableError)
    told = json.loads(ran.stdout)["clientVersion"]["gitVersion"] if name == "kubectl" and ran.stdout else ran.stdout
    if ran.returncode or not told.strip():
        return of_error(name, UnavailableError(f"{path} does not tell its version.", hint=f"Install {name} again."))
    if name == "helm" and told.lstrip("v").split(".")[0] not in {"3", "4"}:
        return problem(name, f"{told} is too old", "Install helm 3.8 or later.", TuneyardError)
    return ok(name, told.strip())
