"""A model folder without its weights: settings as they are, and of each weight file the header before a hole.

What transformers needs to tell which weights a model has, which its files hold and of what shape, is all in there. The
holes take no room on disk where the file system has sparse files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tuneyard.errors import InvalidDataError
from tuneyard.models.headers import Tensor, read_header

_SETTINGS = ("config.json", "generation_config.json", "adapter_config.json")
_INDEX = ".safetensors.index.json"
_WEIGHTS = ".safetensors"
_LARGEST_SETTINGS = 64 * 1024 * 1024

Read = Callable[[str], Iterator[bytes]]
"""Opens a file of the model, by its path, as a stream from its beginning."""


def write_outline(files: Mapping[str, int], read: Read, folder: Path, *, where: str) -> dict[str, dict[str, Tensor]]:
    """Write a model's outline.

    Only files at the top count, since transformers loads no others.

    Args:
        files: Path and size in bytes of each of the model's files.
        read: Opens one.
        folder: Where the outline goes; made if need be.
        where: The model in the user's words.

    Returns:
        The tensors of each weight file.

    Raises:
        InvalidDataError: A weight file is not safetensors, or a settings file is too large to be one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, dict[str, Tensor]] = {}
    for path, size in sorted(files.items()):
        if "/" in path:
            continue
        if path.endswith(_WEIGHTS):
            header = read_header(read(path), where=f"{where}/{path}", size=size)
            tensors[path] = dict(header.tensors)
            with (folder / path).open("wb") as file:
                file.write(header.raw)
                file.truncate(size)
        elif path in _SETTINGS or path.endswith(_INDEX):
            if size > _LARGEST_SETTINGS:
                raise InvalidDataError(f"{where}/{path} is larger than {_LARGEST_SETTINGS} bytes.", problems=[])
            (folder / path).write_bytes(b"".join(read(path)))
    return tensors
