"""Whether a model that is about to be delivered is whole: every weight that its config names, and no other.

Only the headers of the weight files are read. With torch and transformers installed the
library's own model is what they are compared with; without them (the image that delivers) what names and shapes alone
contradict is found, and the rest before a training starts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery.report import tell
from tuneyard.delivery.vetting import vet_model
from tuneyard.errors import InvalidDataError
from tuneyard.models import Read, check_whole, incomplete, structure_problems, write_outline

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_WEIGHTS = ".safetensors"
_CHUNK_BYTES = 1 << 20


def check_weights(name: str, files: Mapping[str, int], read: Read) -> None:
    """Check that the chosen files of a model are a whole one.

    Args:
        name: The model's source in words.
        files: Path and size in bytes of each file that is delivered of it.
        read: Opens one as a stream.

    Raises:
        IncompleteModelError: Weights or files are missing, unexpected or of another shape, each named.
        InvalidDataError: A weight file is not safetensors.
    """
    weights = [path for path in files if path.endswith(_WEIGHTS) and "/" not in path]
    if not weights or _CONFIG not in files or _ADAPTER in files:
        return
    with tempfile.TemporaryDirectory(prefix="tuneyard-outline-") as scratch:
        folder = Path(scratch)
        tensors = write_outline(files, read, folder, where=name)
        config = _settings(folder / _CONFIG)
        if config is None:
            return  # reported where the model is loaded: training and serving look into every file of settings
        if problems := structure_problems(tensors, _settings(folder / _INDEX), config):
            raise incomplete(name, problems)
        _compare(folder, name)


def check_folder(folder: Path, *, where: str) -> None:
    """Check that a model's verified folder is a whole one, as a delivery does: for whoever loads it by other means.

    Args:
        folder: The folder.
        where: The model in the user's words.

    Raises:
        IncompleteModelError, InvalidDataError: As `check_weights`.
    """
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    check_weights(where, files, lambda path: _chunks(folder / path))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _compare(folder: Path, name: str) -> None:
    try:
        vet_model(folder, [path.name for path in folder.iterdir()], where=name)
    except InvalidDataError as error:
        tell(f"The weights of {name} were not compared: {error.message}")
        return
    if notice := check_whole(folder, where=name):
        tell(notice)


def _settings(path: Path) -> dict[str, Any] | None:
    try:
        document: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None
