"""vLLM's flags in our own server: honoured, without effect, or refused by name.

The tables below are the whole list. A flag that changes answers and can't be honoured is refused; one that only tunes
vLLM's engine is logged. Not used where vLLM itself serves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tuneyard.errors import InvalidValuesError, Problem

OWN = {"host": "--host", "port": "--port", "api_key": "TUNEYARD_API_KEY", "middleware": "nothing", "model": "model"}
"""Flags that Tuneyard sets itself with either server, and what to set instead."""

# fmt: off
TUNING = frozenset({
    "block_size", "compilation_config", "cpu_offload_gb", "cudagraph_capture_sizes", "disable_custom_all_reduce",
    "disable_log_requests", "disable_log_stats", "disable_uvicorn_access_log", "enable_chunked_prefill",
    "enable_log_requests", "enable_lora", "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization",
    "kv_cache_memory_bytes", "max_cpu_loras", "max_log_len", "max_lora_rank", "max_loras", "max_num_batched_tokens",
    "max_num_seqs", "max_parallel_loading_workers", "no_enable_prefix_caching", "num_gpu_blocks_override",
    "optimization_level", "scheduling_policy", "swap_space", "uvicorn_log_level",
})
# fmt: on
"""Flags of speed, memory and logs, which don't change answers."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "data_parallel_size": (1,),
    "generation_config": ("auto",),
    "kv_cache_dtype": ("auto",),
    "load_format": ("auto", "safetensors"),
    "pipeline_parallel_size": (1,),
    "quantization": (None, "none"),
    "task": ("auto", "generate"),
    "tensor_parallel_size": (1,),
    "tokenizer_mode": ("auto", "hf"),
    "trust_remote_code": (False,),
}
"""Flags of which only the values that request nothing are accepted."""

DTYPES = {
    "auto": "auto",
    "half": "float16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float": "float32",
    "float32": "float32",
}
_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "K": 1 << 10, "M": 1 << 20}
PLACED = ("served_model_name", "revision")
"""Flags that `placement` reads."""


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The flags of vLLM that our own server honours.

    Attributes:
        dtype: torch's name of a dtype, or `auto` for that of the weights.
        max_model_len: The most tokens of a prompt and its answer; None for the model's own limit.
        seed: Seeds the server's sampling; None for a random seed.
        ignored: Flags without effect here.
    """

    dtype: str
    max_model_len: int | None
    seed: int | None
    ignored: tuple[str, ...]


def app_settings(flags: Mapping[str, Any]) -> AppSettings:
    """Read vLLM's flags for our own server.

    Args:
        flags: `vllm_engine_args`, written with `_`.

    Returns:
        The settings.

    Raises:
        InvalidValuesError: Some flags can't be honoured; it names all of them.
    """
    problems = [*own_flags(flags)]
    readers: dict[str, Callable[[Any], Any]] = {"dtype": _dtype, "max_model_len": _length, "seed": _seed}
    read: dict[str, Any] = {"dtype": "auto", "max_model_len": None, "seed": None}
    for name, value in flags.items():
        if name in readers:
            read[name] = readers[name](value)
            if isinstance(read[name], Problem):
                problems.append(read[name])
        elif name in NEUTRAL and value not in NEUTRAL[name]:
            allowed = " or ".join(str(each).lower() for each in NEUTRAL[name])
            problems.append(Problem(_where(name), "needs vLLM, which is not installed", str(value), allowed))
        elif name not in NEUTRAL and name not in TUNING and name not in PLACED and name not in OWN:
            problems.append(Problem(_where(name), "needs vLLM, which is not installed", str(value)))
    if problems:
        raise InvalidValuesError(
            f"The server can't honour {', '.join(problem.where for problem in problems)}.",
            hint="Leave them out, or install vLLM where the model is served.",
            problems=problems,
        )
    return AppSettings(**read, ignored=tuple(name for name in flags if name in TUNING))


def own_flags(flags: Mapping[str, Any]) -> list[Problem]:
    """Find the flags that Tuneyard sets itself.

    Args:
        flags: `vllm_engine_args`, written with `_`.

    Returns:
        A problem for each.
    """
    return [
        Problem(_where(name), "is set by Tuneyard itself", suggestion=instead)
        for name, instead in OWN.items()
        if name in flags
    ]


def _where(name: str) -> str:
    return f"vllm_engine_args.{name}"


def _dtype(value: Any) -> str | Problem:
    return DTYPES.get(value) or Problem(_where("dtype"), "is not a dtype", str(value), ", ".join(DTYPES))


def _length(value: Any) -> int | Problem | None:
    """Read `max_model_len` as vLLM does: 4096, 4k (4,000), 4K (4,096); auto and -1 are the model's own limit."""
    if value in ("auto", -1, "-1"):
        return None
    match = re.fullmatch(r"(\d+)([kKmM]?)", str(value))
    if match and int(match[1]) > 0 and not isinstance(value, bool):
        return int(match[1]) * _UNITS[match[2]]
    return Problem(_where("max_model_len"), "is not a number of tokens", str(value), "4096, 4K or auto")


def _seed(value: Any) -> int | Problem:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d+", value):
        return int(value)
    return Problem(_where("seed"), "is not an integer", str(value))
