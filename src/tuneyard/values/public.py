"""Values as they may be published and shown: the names of environment variables, and the texts of harmless ones alone.

What has to hold the texts is the file that the process reads, for its user alone. Everything else takes this form: the
record in the bucket, hashes, what `--dry-run` prints, what a cluster keeps beside its Secrets. So a variable may change
between two launches of a run without being a conflict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

NOT_SHOWN = "(not shown)"
"""Stands where a text was. Values that hold it are refused: it is no text that anyone meant."""

ENV_KEYS = ("env", "env_vars")
"""The keys of values that hold environment variables."""

SHOWN_ENV = frozenset(
    {
        "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES",
        "GLOO_SOCKET_IFNAME", "HF_HUB_OFFLINE", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION", "MKL_NUM_THREADS",
        "NCCL_ALGO", "NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_MIN_NCHANNELS", "NCCL_P2P_DISABLE",
        "NCCL_PROTO", "NCCL_SHM_DISABLE", "NCCL_SOCKET_IFNAME", "OMP_NUM_THREADS", "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_TUNABLEOP_ENABLED", "ROCR_VISIBLE_DEVICES",
        "TOKENIZERS_PARALLELISM", "TORCH_BLAS_PREFER_HIPBLASLT", "TORCH_NCCL_BLOCKING_WAIT", "TUNEYARD_DEVICE",
        "VLLM_ATTENTION_BACKEND", "VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL",
        "VLLM_USE_V1", "VLLM_WORKER_MULTIPROC_METHOD",
    }
)  # fmt: skip
"""Variables whose text decides how a run computes, and is no secret by what it means."""

_SECRET_NAME = re.compile(
    r"(^|_)(token|passwd|password|passphrase|secret|credentials?|(api|access|secret|private|auth|account)_?key)$"
)
_SPECIAL_TOKEN = re.compile(r"(^|_)(pad|bos|eos|unk|cls|sep|mask)_token$")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s'\"]+(?=@)")


def is_secret_name(name: str) -> bool:
    """Whether a key is called something whose text is a secret, however its words are joined.

    Args:
        name: A key such as `hub_token`, `api-key` or `secretKey`.
    """
    words = "_".join(filter(None, _WORDS.split(name))).lower()
    return _SECRET_NAME.search(words) is not None and _SPECIAL_TOKEN.search(words) is None


def public_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without the texts that may be secrets.

    Args:
        values: Resolved values, as plain JSON.

    Returns:
        A copy: texts of variables that are not in `SHOWN_ENV`, of keys that are called a secret, and what stands
        before the `@` of a URL are `NOT_SHOWN`. Names of Secrets and of their keys stay.
    """
    tree = {key: _without_credentials(value) for key, value in values.items()}
    return with_env(tree, lambda name, value: value if name in SHOWN_ENV or isinstance(value, dict) else NOT_SHOWN)


def without_credentials(text: str) -> str:
    """Remove the credentials before the `@` of URLs in a text.

    Args:
        text: For example an error message of a library.
    """
    return _CREDENTIALS.sub(NOT_SHOWN, text)


def with_env(values: Mapping[str, Any], change: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Return values with each environment variable changed.

    Args:
        values: Resolved values, as plain JSON.
        change: Given a variable's name and its text or reference; what it returns takes its place.
    """
    changed = dict(values)
    for key in ENV_KEYS:
        if isinstance(env := values.get(key), dict):
            changed[key] = {name: change(name, value) for name, value in cast("dict[str, Any]", env).items()}
    return changed


def _without_credentials(value: Any) -> Any:
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: NOT_SHOWN if _is_secret(key, item) else _without_credentials(item) for key, item in items}
    if isinstance(value, list):
        return [_without_credentials(item) for item in cast("list[Any]", value)]
    return value


def _is_secret(key: str, item: Any) -> bool:
    return isinstance(item, str) and item != "" and is_secret_name(key)
