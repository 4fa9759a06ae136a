"""A model's folder without its weights: the settings, and of each weight file the header before a hole.

It holds all that transformers needs to determine which weights a model has, which ones its files hold, and their
shapes. The holes use no disk space where the file system has sparse files.
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
"""Opens a file of the model by its path, as a stream from its beginning."""


def write_outline(files: Mapping[str, int], read: Read, folder: Path, *, where: str) -> dict[str, dict[str, Tensor]]:
    """Write a model's outline.

    Only files at the top are included, since transformers loads no others.

    Args:
        files: Path and size in bytes of each of the model's files.
        read: Opens a file.
        folder: The folder to write to, created if necessary.
        where: The model, for messages.

    Returns:
        The tensors of each weight file.

    Raises:
        InvalidDataError: A weight file is not safetensors, or a file of settings is too large.
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
                raise InvalidDataError(
                    f"The file '{where}/{path}' is larger than {_LARGEST_SETTINGS} bytes.", problems=[]
                )
            (folder / path).write_bytes(b"".join(read(path)))
    return tensors
