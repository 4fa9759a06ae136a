"""Selects the files of a model to deliver: all but those that a glob excludes or that could run code when loaded.

Pure: it reads names alone. Python's pickle runs what it unpacks, so files in formats that are pickles (or can hold
code, as Keras's may) never reach the store; a model that has no other weights is refused.
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
"""Suffixes of weights that are pickles or can hold code, and of other frameworks' copies of the same weights."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files of a source are delivered.

    Attributes:
        files: The files to deliver, sorted by path.
        left_out: The paths of the others, sorted.
        notices: Lines to log about the selection.
    """

    files: tuple[SourceFile, ...]
    left_out: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()


def split_globs(text: str) -> tuple[str, ...]:
    """Split a `downloadExcludeGlob` into its patterns, separated by commas or spaces."""
    return tuple(part for part in re.split(r"[,\s]+", text) if part)


def select_model(files: tuple[SourceFile, ...], *, exclude: tuple[str, ...], name: str) -> Selection:
    """Select the files of a model to deliver.

    Args:
        files: The files of the source.
        exclude: Globs over whole paths, as `hf download --exclude` takes them: `*` also matches `/`, and a pattern that
            ends with a `/` matches everything below.
        name: The source, for messages.

    Raises:
        InvalidDataError: The only weights are pickles, a path is not allowed, or no file is left.
    """
    patterns = [pattern + "*" if pattern.endswith("/") else pattern for pattern in exclude]
    excluded = {file.path for file in files if any(fnmatchcase(file.path, pattern) for pattern in patterns)}
    notices = [
        f"The downloadExcludeGlob '{pattern}' matches no file of '{name}'."
        for pattern in patterns
        if not any(fnmatchcase(file.path, pattern) for file in files)
    ]
    kept = [file for file in files if file.path not in excluded]
    unsafe = [file.path for file in kept if is_unsafe(file.path)]
    if unsafe:
        if not any(file.path.lower().endswith(SAFE_WEIGHTS) for file in kept):
            raise _only_unsafe(unsafe, name)
        notices.append(f"Not delivered from '{name}', which has safetensors: {abbreviated(unsafe)}.")
    chosen = tuple(file for file in kept if file.path not in unsafe)
    _check_paths(chosen, name)
    if not chosen:
        raise InvalidDataError(
            f"No file of '{name}' is left to deliver: downloadExcludeGlob excludes all {len(files)}.",
            hint="Narrow downloadExcludeGlob.",
        )
    return Selection(files=chosen, left_out=tuple(sorted([*excluded, *unsafe])), notices=tuple(notices))


def abbreviated(paths: list[str], *, most: int = 4) -> str:
    """List a few of many paths, for messages."""
    named = ", ".join(paths[:most])
    return named if len(paths) <= most else f"{named} and {len(paths) - most} more"


def is_unsafe(path: str) -> bool:
    """Whether a file's name is that of a format that can run code when loaded."""
    name = path.lower()
    return name.endswith(UNSAFE) or name.endswith(".bin.index.json")


def _only_unsafe(paths: list[str], name: str) -> InvalidDataError:
    return InvalidDataError(
        f"The only weights of '{name}' are in formats that can run code when loaded: {abbreviated(paths)}.",
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
            f"'{name}' has {len(problems)} files with names that can't be object keys.",
            hint="Rename them, or exclude them with downloadExcludeGlob.",
            problems=problems,
        )
