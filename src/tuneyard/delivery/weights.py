"""Checks that a model to be delivered is complete: it holds every weight that its config names, and no other.

Only the headers of the weight files are read. With torch and transformers installed, they are compared with the
library's own model; without them (in the image that delivers) only contradictions of names and shapes are found, and
the rest is checked before a training starts.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery.vetting import vet_model
from tuneyard.errors import InvalidDataError
from tuneyard.models import Read, check_whole, incomplete, structure_problems, write_outline

logger = logging.getLogger(__name__)

_CONFIG = "config.json"
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_WEIGHTS = ".safetensors"
_CHUNK_BYTES = 1 << 20


def check_weights(name: str, files: Mapping[str, int], read: Read) -> None:
    """Check that the selected files are a complete model.

    Args:
        name: The model's source, for messages.
        files: Path and size in bytes of each file to deliver.
        read: Opens a file as a stream.

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
            return  # reported before the model is loaded: training and serving check every file of settings
        if problems := structure_problems(tensors, _settings(folder / _INDEX), config):
            raise incomplete(name, problems)
        _compare(folder, name)


def check_folder(folder: Path, *, where: str) -> None:
    """Check, as a delivery does, that a verified folder holds a complete model.

    Args:
        folder: The folder.
        where: The model, for messages.

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
        logger.info("The weights of '%s' were not compared: %s", name, error.message)
        return
    if notice := check_whole(folder, where=name):
        logger.info("%s", notice)


def _settings(path: Path) -> dict[str, Any] | None:
    try:
        document: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None
