"""What a model's files may ask of the libraries that load them: data, and never code from anywhere.

`selection` looks at names when a model is delivered. This looks into the files once they are on this machine, before
they are loaded for training or serving, since a bucket may hold what no delivery of ours brought. A repository's own
code (`auto_map` and the `.py` files) is not refused: nothing here ever runs it, and many models carry it beside an
architecture that transformers has too.
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
"""Names that lead out of the model's own folder."""
_KERNELS = ("attn_implementation", "experts_implementation")
"""Settings whose value may be a repository of compiled code on the Hub."""


class _Missing(Problem):
    """A file that the model itself says it has, and which is not there."""


def vet_model(folder: Path, paths: Iterable[str], *, where: str) -> None:
    """Look into a model's or an adapter's files before anything loads them.

    Args:
        folder: The folder, verified.
        paths: What its manifest names.
        where: The model in the user's words.

    Raises:
        InvalidDataError: A file is of a format that runs code when it is loaded, or asks for code or files from
            elsewhere; with every such file. Or the model lacks weights that its own files name: then it is nobody's
            attack, but incomplete.
    """
    named = frozenset(paths)
    problems = list(_problems(folder, named))
    suspicious = [problem for problem in problems if not isinstance(problem, _Missing)]
    if suspicious:
        raise InvalidDataError(
            f"The model {where} is not plain weights and settings: {suspicious[0].where} {suspicious[0].what}.",
            hint="Use a model in plain safetensors, without code of its own; don't trust whoever made this one.",
            problems=suspicious,
        )
    if problems:
        first = problems[0]
        raise InvalidDataError(
            f"The model {where} is incomplete: {first.where} {first.what}{f' ({first.value})' if first.value else ''}.",
            hint="Deliver it again, and check that downloadExcludeGlob leaves none of its weights out.",
            problems=problems,
        )


def _problems(folder: Path, named: frozenset[str]) -> Iterator[Problem]:
    for path in sorted(named):
        if is_unsafe(path):
            yield Problem(path, "is of a format that can run code when it is loaded", allowed="safetensors")
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
    """Read a file of settings; what is wrong with it where it can't be."""
    if path.stat().st_size > _LARGEST_BYTES:
        return f"is larger than {_LARGEST_BYTES} bytes"
    try:
        document: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "is not JSON"
    return cast("dict[str, Any]", document) if isinstance(document, dict) else "is no map"


def _wrong_settings(path: str, settings: dict[str, Any]) -> Iterator[Problem]:
    for key, value in _everything(settings):
        if key == "trust_remote_code" and value:
            yield Problem(path, "asks for a repository's code to be trusted", f"{key}: {value!r}"[:80])
        elif any(kernel in key for kernel in _KERNELS) and _is_elsewhere(value):
            yield Problem(path, "names compiled code of a repository", f"{key}: {value!r}"[:80])
        elif key == "custom_generate" and value:
            yield Problem(path, "names code that would generate", f"{key}: {value!r}"[:80])


def _wrong_index(path: str, index: dict[str, Any], named: frozenset[str]) -> Iterator[Problem]:
    beside = path.rpartition("/")[0]
    weights: Any = index.get("weight_map")
    if not isinstance(weights, dict):
        yield Problem(path, "has no weight_map")
        return
    for file in sorted({str(file) for file in cast("dict[str, Any]", weights).values()}):
        whole = f"{beside}/{file}" if beside else file
        if _ELSEWHERE.search(file) or not file.endswith(".safetensors"):
            yield Problem(path, "names weights that are not the model's own safetensors", repr(file)[:80])
        elif whole not in named:
            yield _Missing(path, "names a file that is not there", repr(file)[:80])


def _wrong_adapter(settings: dict[str, Any], named: frozenset[str]) -> Iterator[Problem]:
    kind = settings.get("peft_type")
    if kind not in _ADAPTERS:
        yield Problem(_ADAPTER, "is of a kind that is not loaded", f"peft_type: {kind!r}"[:80], ", ".join(_ADAPTERS))
    if (
        kind == "PROMPT_TUNING" and settings.get("inference_mode") is not True
    ):  # else peft asks a tokenizer for its text
        yield Problem(_ADAPTER, "would begin its prompt anew", f"inference_mode: {settings.get('inference_mode')!r}")
    if settings.get("megatron_config") is not None:
        yield Problem(_ADAPTER, "names a package to import", f"megatron_core: {settings.get('megatron_core')!r}"[:80])
    if _ADAPTER_WEIGHTS not in named:  # peft would look for them on the Hub
        yield _Missing(_ADAPTER, f"has no {_ADAPTER_WEIGHTS} beside it")


def _is_elsewhere(value: object) -> bool:
    if isinstance(value, dict):
        return any(_is_elsewhere(one) for one in cast("dict[str, Any]", value).values())
    return isinstance(value, str) and any(mark in value for mark in "/:@\\")


def _everything(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Give every setting, however deep it lies."""
    waiting: list[Any] = [settings]
    while waiting:
        one: Any = waiting.pop()
        if isinstance(one, dict):
            fields = cast("dict[str, Any]", one)
            yield from fields.items()
            waiting += fields.values()
        elif isinstance(one, list):
            waiting += cast("list[Any]", one)
