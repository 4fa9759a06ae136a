"""Entries of a model's config.json that a run changes, and how they are read back.

A run may train its model with other entries (`run_conf.model_args`). An adapter has no config.json of its own, so its
manifest carries them to whatever loads its base. There they are untrusted data from a bucket: plain JSON, and never an
entry that decides what a model is, which code runs, or which files are read. Loads no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

from tuneyard.errors import InvalidDataError, Problem

IDENTITY = (
    "model_type", "architectures", "auto_map", "quantization_config", "tie_word_embeddings", "transformers_version",
)  # fmt: skip
"""Entries of a config that define what the model is."""

OF_THE_LOADER = frozenset({"dtype", "attn_implementation", "experts_implementation"})
"""Arguments of `from_pretrained` that are no entries of a config, and that values may set."""

# fmt: off
_ARGUMENTS = frozenset({
    "adapter_kwargs", "adapter_name", "allow_all_kernels", "cache_dir", "code_revision", "config", "custom_generate",
    "device_map", "device_mesh", "disable_mmap", "distributed_config", "folder", "force_download", "fusion_config",
    "generation_config", "gguf_file", "ignore_mismatched_sizes", "kernel_config", "key_mapping", "local_files_only",
    "max_memory", "offload_buffers", "offload_folder", "output_loading_info", "proxies", "revision", "state_dict",
    "subfolder", "token", "torch_dtype", "tp_plan", "tp_size", "tqdm_class", "trust_remote_code", "use_kernels",
    "use_safetensors", "variant", "weights_only", "where",
})
# fmt: on
"""Other arguments of `from_pretrained`, which also accepts entries of a config, and of our loading."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_LARGEST_BYTES = 65_536


def read_entries(about: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Read the entries that an adapter was trained with from its manifest.

    Args:
        about: The facts of the manifest, which are not trusted.
        where: The adapter, for messages.

    Returns:
        The entries; none where the manifest has none.

    Raises:
        InvalidDataError: They are not plain JSON values by name, or one is not allowed to change.
    """
    given = about.get("config")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise _refused(where, [Problem("config", "is not a mapping of entries", str(given)[:80])])
    entries = cast("dict[str, Any]", given)
    problems = [Problem(f"config.{path}", what) for path, what in _unfit("", entries)]
    if not problems and len(json.dumps(entries)) > _LARGEST_BYTES:
        problems = [Problem("config", "is too large for settings", allowed=f"{_LARGEST_BYTES} bytes of JSON")]
    if problems:
        raise _refused(where, problems)
    return entries


def without_dropout(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries without dropout, which has no effect outside of training.

    Args:
        entries: Entries of a config.
    """
    return {name: value for name, value in entries.items() if "drop" not in name}


def _unfit(above: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the path of each entry that may not be set, and why; at any depth, since a config has parts."""
    if isinstance(value, dict):
        for name, entry in cast("dict[str, Any]", value).items():
            path = f"{above}{name}"
            if not _NAME.fullmatch(name):
                yield path[:80], "is not the name of a setting"
            elif name in IDENTITY or name in OF_THE_LOADER or name in _ARGUMENTS:
                yield path, "defines what a model is or how it is loaded, and can't come with an adapter"
            else:
                yield from _unfit(f"{path}.", entry)
    elif isinstance(value, list):
        for entry in cast("list[Any]", value):
            yield from _unfit(above, entry)
    elif isinstance(value, float) and value - value != 0:
        yield above.rstrip("."), "is not a finite number"
    elif not isinstance(value, str | int | float | None):
        yield above.rstrip("."), f"is not a plain value ({type(value).__name__})"


def _refused(where: str, problems: list[Problem]) -> InvalidDataError:
    return InvalidDataError(
        f"The manifest of the adapter '{where}' holds settings of its base that can't be used: {problems[0]}.",
        hint="Finetune again, under another checkpointsRemote.",
        problems=problems,
    )
