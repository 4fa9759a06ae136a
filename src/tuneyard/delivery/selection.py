"""Which files of a model are delivered: all but what a glob excludes and what could run code when it is loaded.

Pure: it looks at names alone. Python's pickle runs what it unpacks, so files of the formats that are pickles (or hold
code, as Keras's may) never reach the store; where a model has no other weights, it is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tuneyard.delivery.sources import SourceFile
from tuneyard.errors import InvalidDataError, Problem
from tuneyard.store import check_relative

SAFE_WEIGHTS = (".safetensors", ".gguf")
UNSAFE = (
    ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".ot", ".nemo",
    ".h5", ".hdf5", ".keras", ".msgpack",
)  # fmt: skip
"""Weights that are pickles or can hold code, and other frameworks' copies of the same weights."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of a source is delivered.

    Attributes:
        files: What is, sorted by path.
        left_out: The paths of what is not, sorted.
        notices: What a person should be told about it, in sentences.
    """

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def split_globs(text: str) -> tuple[str, ...]:
    """Split a `downloadExcludeGlob` into its patterns, which commas or spaces divide."""
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def select_model(files: tuple[SourceFile, ...], *, exclude: tuple[str, ...], name: str) -> Selection:
    """Choose which files of a model are delivered.

    Args:
        files: What the source offers.
        exclude: Globs over whole paths, as `hf download --exclude` takes them: `*` also matches `/`, and a pattern that
            ends at a `/` means everything below.
        name: The source in words.

    Returns:
        The choice.

    Raises:
        InvalidDataError: The only weights are pickles, a path is not allowed, or nothing is left.
    """
    patterns = [pattern + "*" if pattern.endswith("/") else pattern for pattern in exclude]
    excluded = {file.path for file in files if any(fnmatchcase(file.path, pattern) for pattern in patterns)}
    notices = [
        f"downloadExcludeGlob: {pattern!r} matches no file of {name}"
        for pattern in patterns
        if not any(fnmatchcase(file.path, pattern) for file in files)
    ]
    kept = [file for file in files if file.path not in excluded]
    unsafe = [file.path for file in kept if is_unsafe(file.path)]
    if unsafe:
        if not any(file.path.lower().endswith(SAFE_WEIGHTS) for file in kept):
            raise _only_unsafe(unsafe, name)
        notices.append(f"left out of {name}, since safetensors are there: {some(unsafe)}")
    chosen = tuple(file for file in kept if file.path not in unsafe)
    _check_paths(chosen, name)
    if not chosen:
        raise InvalidDataError(
            f"Nothing of {name} is left to deliver: downloadExcludeGlob excludes all of its {len(files)} files.",
            hint="Narrow downloadExcludeGlob.",
        )
    return Selection(files=chosen, left_out=tuple(sorted([*excluded, *unsafe])), notices=tuple(notices))


def some(paths: list[str], *, most: int = 4) -> str:
    """Name a few of many paths."""
    named = ", ".join(paths[:most])
    return named if len(paths) <= most else f"{named} and {len(paths) - most} more"


def is_unsafe(path: str) -> bool:
    """Whether a file, by its name, is of a format that can run code when it is loaded."""
    name = path.lower()
    return name.endswith(UNSAFE) or name.endswith(".bin.index.json")


def _only_unsafe(paths: list[str], name: str) -> InvalidDataError:
    return InvalidDataError(
        f"The only weights of {name} are in formats that can run code when they are loaded: {some(paths)}.",
        hint="Choose a model or revision with safetensors, convert them, or exclude them with downloadExcludeGlob.",
        problems=[Problem(where=path, what="is not a safe format", allowed="safetensors or GGUF") for path in paths],
    )


def _check_paths(files: tuple[SourceFile, ...], name: str) -> None:
    problems: list[Problem] = []
    for file in files:
        try:
            check_relative(file.path)
        except ValueError as error:
            problems.append(Problem(where=repr(file.path), what=str(error)))
    if problems:
        raise InvalidDataError(
            f"{name} has {len(problems)} files whose names no store can keep.",
            hint="Rename them, or exclude them with downloadExcludeGlob.",
            problems=problems,
        )
