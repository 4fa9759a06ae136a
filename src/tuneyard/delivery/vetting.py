"""Checks that loading a model's files can run no code and read nothing outside of the model.

`selection` checks names when a model is delivered. This module checks the files once they are on this machine, before
they are loaded for training or serving, since a bucket may hold models that no delivery wrote. A repository's own code
(`auto_map` and `.py` files) is not refused: it is never run, and many models carry it beside an architecture that
transformers has too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery.selection import is_unsafe
from tuneyard.errors import InvalidDataError, Problem

_ADAPTER = "adapter_config.json"
_ADAPTERS = ("LORA", "VERA", "IA3", "PROMPT_TUNING")
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_INDEX = ".safetensors.index.json"
_LARGEST_BYTES = 64 * 1024 * 1024
_READ = ("config.json", "generation_config.json", "tokenizer_config.json", _ADAPTER)
_ELSEWHERE = re.compile(r"^[/~]|^[A-Za-z]:|\\|(^|/)\.\.?(/|$)|[\x00-\x1f]|://|@")
"""Names that lead out of the model's folder."""
_KERNELS = ("attn_implementation", "experts_implementation")
"""Settings whose value may name a repository of compiled code on the Hub."""


class _Missing(Problem):
    """A file that the model itself names, and that is missing."""


def vet_model(folder: Path, paths: Iterable[str], *, where: str) -> None:
    """Check a model's or adapter's files before anything loads them.

    Args:
        folder: Its verified folder.
        paths: The paths in its manifest.
        where: The model, for messages.

    Raises:
        InvalidDataError: A file is of a format that runs code when loaded, or names code or files elsewhere; with
            every such file. Or the model is incomplete: it lacks weights that its own files name.
    """
    named = frozenset(paths)
    problems = list(_problems(folder, named))
    suspicious = [problem for problem in problems if not isinstance(problem, _Missing)]
    if suspicious:
        raise InvalidDataError(
            f"The model '{where}' is not plain weights and settings: '{suspicious[0].where}' {suspicious[0].what}.",
            hint="Use a model in plain safetensors without custom code, and don't trust the origin of this one.",
            problems=suspicious,
        )
    if problems:
        first = problems[0]
        value = f" ({first.value})" if first.value else ""
        raise InvalidDataError(
            f"The model '{where}' is incomplete: '{first.where}' {first.what}{value}.",
            hint="Deliver it again, and check that downloadExcludeGlob leaves none of its weights out.",
            problems=problems,
        )


def _problems(folder: Path, named: frozenset[str]) -> Iterator[Problem]:
    for path in sorted(named):
        if is_unsafe(path):
            yield Problem(path, "is in a format that can run code when loaded", allowed="safetensors")
        elif path in _READ or path.endswith(_INDEX):
            settings = _settings(folder / path)
            if isinstance(settings, str):
                yield Problem(path, settings)
            elif path.endswith(_INDEX):
                yield from _wrong_index(path, settings, named)
            else:
                yield from _wrong_settings(path, settings)
                if path == _ADAPTER:
                    yield from _wrong_adapter(settings, named)


def _settings(path: Path) -> dict[str, Any] | str:
    """Read a file of settings; what is wrong with it where it can't be read."""
    if path.stat().st_size > _LARGEST_BYTES:
        return f"is larger than {_LARGEST_BYTES} bytes"
    try:
        document: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "is not JSON"
    return cast("dict[str, Any]", document) if isinstance(document, dict) else "is not a JSON object"


def _wrong_settings(path: str, settings: dict[str, Any]) -> Iterator[Problem]:
    for key, value in _all_settings(settings):
        if key == "trust_remote_code" and value:
            yield Problem(path, "trusts a repository's code", f"{key}: {value!r}"[:80])
        elif any(kernel in key for kernel in _KERNELS) and _is_elsewhere(value):
            yield Problem(path, "names compiled code in a repository", f"{key}: {value!r}"[:80])
        elif key == "custom_generate" and value:
            yield Problem(path, "names code for generation", f"{key}: {value!r}"[:80])


def _wrong_index(path: str, index: dict[str, Any], named: frozenset[str]) -> Iterator[Problem]:
    beside = path.rpartition("/")[0]
    weights: Any = index.get("weight_map")
    if not isinstance(weights, dict):
        yield Problem(path, "has no weight_map")
        return
    for file in sorted({str(file) for file in cast("dict[str, Any]", weights).values()}):
        whole = f"{beside}/{file}" if beside else file
        if _ELSEWHERE.search(file) or not file.endswith(".safetensors"):
            yield Problem(path, "names weights other than the model's own safetensors", repr(file)[:80])
        elif whole not in named:
            yield _Missing(path, "names a file that is missing", repr(file)[:80])


def _wrong_adapter(settings: dict[str, Any], named: frozenset[str]) -> Iterator[Problem]:
    kind = settings.get("peft_type")
    if kind not in _ADAPTERS:
        yield Problem(_ADAPTER, "is of a type that can't be loaded", f"peft_type: {kind!r}"[:80], ", ".join(_ADAPTERS))
    if (
        kind == "PROMPT_TUNING" and settings.get("inference_mode") is not True
    ):  # else PEFT would load a tokenizer for its text
        yield Problem(_ADAPTER, "would initialize its prompt", f"inference_mode: {settings.get('inference_mode')!r}")
    if settings.get("megatron_config") is not None:
        yield Problem(_ADAPTER, "names a package to import", f"megatron_core: {settings.get('megatron_core')!r}"[:80])
    if _ADAPTER_WEIGHTS not in named:  # PEFT would look for them on the Hub
        yield _Missing(_ADAPTER, f"has no {_ADAPTER_WEIGHTS} beside it")


def _is_elsewhere(value: object) -> bool:
    if isinstance(value, dict):
        return any(_is_elsewhere(one) for one in cast("dict[str, Any]", value).values())
    return isinstance(value, str) and any(mark in value for mark in "/:@\\")


def _all_settings(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every setting, at any depth."""
    waiting: list[Any] = [settings]
    while waiting:
        one: Any = waiting.pop()
        if isinstance(one, dict):
            fields = cast("dict[str, Any]", one)
            yield from fields.items()
            waiting += fields.values()
        elif isinstance(one, list):
            waiting += cast("list[Any]", one)
