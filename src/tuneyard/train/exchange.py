"""What processes exchange besides tensors: JSON, and never pickles, which run code where they are read.

torch's own collectives of objects (`broadcast_object_list`, `all_gather_object`) pickle, over connections that
authenticate nobody: nothing in `src/` calls them. `broadcast` and `gather` send JSON instead. Libraries that call
torch's are restricted to plain data by `refuse_code`.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from tuneyard.train.private import collective_device, replace_unpickler

T = TypeVar("T")

_LONGEST_BYTES = 1 << 30


def broadcast(document: T, *, source: int = 0) -> T:
    """Send a document of one process to all; every process calls it.

    Args:
        document: Plain JSON values; ignored, and None if need be, in every process but the source.
        source: The process's rank.

    Returns:
        The source's document after a round trip through JSON: tuples are lists.
    """
    mine = dist.get_rank() == source
    body = _bytes(document) if mine else b""
    length = torch.tensor([len(body)], dtype=torch.long, device=collective_device())
    dist.broadcast(length, src=source)
    tensor = _tensor(body, _checked(int(length.item())))
    dist.broadcast(tensor, src=source)
    return cast("T", json.loads(tensor.cpu().numpy().tobytes()))


def gather(document: T) -> list[T]:
    """Return the documents of all processes, by rank; every process calls it.

    Args:
        document: Plain JSON values.
    """
    return [cast("T", json.loads(body)) for body in gather_bytes(_bytes(document))]


def gather_bytes(body: bytes) -> list[bytes]:
    """Return the bytes of all processes, by rank; every process calls it.

    Args:
        body: This process's bytes; may be empty.
    """
    length = torch.tensor([len(body)], dtype=torch.long, device=collective_device())
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    sizes = [_checked(int(one.item())) for one in lengths]
    longest = max(1, *sizes)
    tensors = [torch.zeros(longest, dtype=torch.uint8, device=collective_device()) for _ in sizes]
    dist.all_gather(tensors, _tensor(body, longest))
    return [tensor[:size].cpu().numpy().tobytes() for tensor, size in zip(tensors, sizes, strict=True)]


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists and maps; a pickle that names anything to call is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"another process sent a {module_name}.{global_name}, which is not plain data")


def refuse_code() -> None:
    """Restrict torch's own collectives of objects to plain data from other processes."""
    replace_unpickler(_PlainUnpickler)


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def _tensor(body: bytes, size: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(body.ljust(size, b" ")), dtype=torch.uint8).to(collective_device())


def _checked(size: int) -> int:
    if not 0 <= size <= _LONGEST_BYTES:
        raise ValueError(f"another process announced {size} bytes, which is not possible")
    return size
