"""What processes tell each other besides tensors: JSON, and never pickles, which run code where they are read.

torch's own collectives of objects (`broadcast_object_list`, `all_gather_object`) pickle, over connections that
authenticate nobody: nothing in `src/` calls them. `broadcast` and `gather` send JSON instead. Libraries that call
torch's are kept to plain data by `refuse_code`, the one place that changes private state of torch:
`tests/unit/train/test_exchange.py` fails on the day that state is called otherwise.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

T = TypeVar("T")

_LONGEST_BYTES = 1 << 30


def broadcast(document: T, *, source: int = 0) -> T:
    """Give every process what one of them has; called by all.

    Args:
        document: Plain JSON values; that of the source counts, the others' may be None.
        source: The process's rank.

    Returns:
        The source's document, as JSON gives it back: tuples are lists.
    """
    mine = dist.get_rank() == source
    body = _bytes(document) if mine else b""
    length = torch.tensor([len(body)], dtype=torch.long, device=_device())
    dist.broadcast(length, src=source)
    tensor = _tensor(body, _checked(int(length.item())))
    dist.broadcast(tensor, src=source)
    return cast("T", json.loads(tensor.cpu().numpy().tobytes()))


def gather(document: T) -> list[T]:
    """Give every process what each of them has, by rank; called by all.

    Args:
        document: Plain JSON values.
    """
    return [cast("T", json.loads(body)) for body in gather_bytes(_bytes(document))]


def gather_bytes(body: bytes) -> list[bytes]:
    """Give every process the bytes that each of them has, by rank; called by all.

    Args:
        body: This process's bytes; may be empty.
    """
    length = torch.tensor([len(body)], dtype=torch.long, device=_device())
    lengths = [torch.zeros_like(length) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, length)
    sizes = [_checked(int(one.item())) for one in lengths]
    longest = max(1, *sizes)
    tensors = [torch.zeros(longest, dtype=torch.uint8, device=_device()) for _ in sizes]
    dist.all_gather(tensors, _tensor(body, longest))
    return [tensor[:size].cpu().numpy().tobytes() for tensor, size in zip(tensors, sizes, strict=True)]


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and maps; a pickle that names anything to call is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"another process sent a {module_name}.{global_name}, which is not plain data")


def refuse_code() -> None:
    """Let torch's own collectives of objects take nothing but plain data from other processes, from now on."""
    assert issubclass(distributed_c10d._unpickler, pickle.Unpickler)  # pyright: ignore[reportPrivateUsage]
    distributed_c10d._unpickler = _PlainUnpickler  # pyright: ignore[reportPrivateUsage]


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def _tensor(body: bytes, size: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(body.ljust(size, b" ")), dtype=torch.uint8).to(_device())


def _checked(size: int) -> int:
    if not 0 <= size <= _LONGEST_BYTES:
        raise ValueError(f"another process announced {size} bytes, which is not possible")
    return size


def _device() -> torch.device:
    """The device that this group's collectives work on: NCCL's take no tensors of the CPU."""
    return torch.device(distributed_c10d._get_object_coll_device())  # pyright: ignore[reportPrivateUsage]
