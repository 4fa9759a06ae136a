"""A micro-batch run on tensors that have shapes and no memory, with every operation and storage noted.

The tensors are torch's fake tensors on the CPU, so each operation chooses the kernel that it would choose there. It
stands below `tracing`, which decides what to run.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tuneyard.network.batches import IGNORED, Row, flatten
from tuneyard.network.forms import Forward
from tuneyard.network.private import storage_address, tensors_of

_ATEN: Any = torch.ops.aten
_GROUPED = _ATEN._grouped_mm.default
_NUMBER = _ATEN._local_scalar_dense.default
_CAST = _ATEN._to_copy.default
_FORMULAS: Mapping[Any, Any] = {
    **flop_registry,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[_ATEN._scaled_dot_product_flash_attention],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}
"""torch's formulas, and those of its attention on the CPU, which are the same."""


class TooManyOperationsError(Exception):
    """Raised where a pass takes more operations than it may."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The shape of a conversation: its tokens, and how many of them are trained."""

    tokens: int
    targets: int


@dataclass(frozen=True, slots=True)
class StepTrace:
    """What the forward and backward pass of a micro-batch take; bytes are those at the moment when most are held.

    Attributes:
        flops: Operations of matrix products, convolutions and attention.
        activations: Bytes that are none of the following.
        logits: Bytes of logits, of what the loss makes of them, and of their gradients.
        gradients: Bytes of gradients of weights.
        casts: Bytes of copies of weights in another type (autocast).
        transient: Bytes that the forward pass allocates and frees, all of them together.
    """

    flops: float
    activations: float
    logits: float
    gradients: float
    casts: float
    transient: float


@dataclass(slots=True)
class _Storage:
    """A storage: when it was made and freed, counted in such events, its bytes and what it holds."""

    made: int
    size: int
    width: int
    kind: str = "activations"
    freed: int | None = None


@dataclass(slots=True)
class Recording:
    """What happened in a pass.

    Attributes:
        operations: Operations dispatched by the forward pass.
        flops: See `StepTrace`.
        events: Storages made and freed.
        turned: The event at which the backward pass began; None before it.
        storages: Every storage, in the order of making.
    """

    operations: int = 0
    flops: float = 0.0
    events: int = 0
    turned: int | None = None
    storages: list[_Storage] = field(default_factory=list[_Storage])

    def trace(self, *, at_turn: bool = False) -> StepTrace:
        """Sum up the recording.

        Args:
            at_turn: Whether to return the bytes held when the backward pass begins, without gradients but with the peak
                of the logits: then every number grows linearly with tokens and targets.
        """
        assert self.turned is not None, "a pass is recorded whole, or not at all"
        changes = [(one.made, one.size, one) for one in self.storages]
        changes += [(self.events if one.freed is None else one.freed, -one.size, one) for one in self.storages]
        held: dict[str, int] = dict.fromkeys(("activations", "logits", "gradients", "casts"), 0)
        most, best, logits = 0, dict(held), 0
        for event, size, one in sorted(changes, key=lambda change: change[:2]):
            held[one.kind] += size
            logits = max(logits, held["logits"])
            if event < self.turned if at_turn else sum(held.values()) > most:
                most, best = sum(held.values()), dict(held)
        if at_turn:
            best["logits"] = logits
        transient = sum(one.size for one in self.storages if one.freed is not None and one.freed <= self.turned)
        return StepTrace(self.flops, **best, transient=transient)


class Stage:
    """A model whose weights are fake, on which passes are run.

    Args:
        model: A model on the meta device; its weights are replaced by fake ones.
        autocast: The type that is computed in, by torch's name; None for the weights' own.
        accumulates: Whether gradients of an earlier micro-batch are there.
    """

    def __init__(self, model: torch.nn.Module, autocast: str | None, accumulates: bool) -> None:
        self._model = model
        self._autocast = autocast
        self._accumulates = accumulates
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self._mode:
            self._weights = _make_fake(model)

    def run(self, forward: Forward, conversations: Sequence[Conversation], most: int | None = None) -> Recording:
        """Run a forward and a backward pass.

        Args:
            forward: How the conversations go through the model.
            conversations: The micro-batch.
            most: How many operations the forward pass may take; None for any number.

        Raises:
            TooManyOperationsError: It takes more.
        """
        row = flatten([_row(each) for each in conversations])
        trained = [weight for weight in self._model.parameters() if weight.requires_grad]
        recording = Recording()
        recorder = _Recorder(recording, self._weights, most)
        try:
            with self._mode:
                for weight in trained:
                    weight.grad = torch.empty_like(weight) if self._accumulates else None
                with recorder:
                    self._pass(forward, row, recorder)
                    recorder.name_gradients(weight.grad for weight in trained if weight.grad is not None)
        finally:
            for weight in trained:
                weight.grad = None
        return recording

    def _pass(self, forward: Forward, row: Mapping[str, Any], recorder: _Recorder) -> None:
        labels_K = row["labels"][0]
        dtype = getattr(torch, self._autocast) if self._autocast else None
        with torch.autocast("cpu", dtype) if dtype else nullcontext():
            logits_KV = forward(self._model, row).logits_KV
            shape = tuple(logits_KV.shape)
            loss = cross_entropy(logits_KV.float(), labels_K, ignore_index=IGNORED, reduction="sum")
        del logits_KV
        recorder.recording.turned = recorder.recording.events
        loss.backward()
        recorder.name_logits(shape)


def _row(conversation: Conversation) -> Row:
    mask = np.zeros(conversation.tokens, np.bool_)
    mask[conversation.tokens - conversation.targets :] = True
    return Row(input_ids=np.zeros(conversation.tokens, np.int32), loss_mask=mask)


def _make_fake(model: torch.nn.Module) -> set[int]:
    """Replace a model's tensors, and shared ones by shared ones; return the addresses of their storages."""
    made: dict[int, torch.Tensor] = {}

    def fake(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
            is_weight = isinstance(tensor, torch.nn.Parameter)
            made[id(tensor)] = torch.nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        return made[id(tensor)]

    holders: list[Any] = list(model.modules())
    for holder in holders:
        for held in tensors_of(holder):
            held.update({name: fake(tensor) for name, tensor in held.items() if tensor is not None})
    return {storage_address(tensor) for tensor in made.values()}


class _Recorder(TorchDispatchMode):
    """Notes what every operation makes; see `Recording`."""

    def __init__(self, recording: Recording, weights: set[int], most: int | None) -> None:
        super().__init__()
        self.recording = recording
        self._weights = weights
        self._most = most
        self._alive: dict[int, _Storage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # torch reads a tensor's device here and can't handle an error
            return func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if given and not any(isinstance(tensor, FakeTensor) for tensor in given):
            with unset_fake_temporarily():  # positions and bounds have numbers
                return func(*args, **kwargs)
        recording = self.recording
        recording.operations += recording.turned is None
        if self._most is not None and recording.operations > self._most:
            raise TooManyOperationsError
        if func is _GROUPED:
            made = self._grouped(*args, **kwargs)
        elif func is _NUMBER:
            return _number(args[0])
        else:
            made = func(*args, **kwargs)
            if formula := _FORMULAS.get(func._overloadpacket):
                recording.flops += formula(*args, **kwargs, out_val=made)
        cast = func is _CAST and storage_address(args[0]) in self._weights
        for tensor in (made,) if isinstance(made, torch.Tensor) else tree_leaves(made):
            if isinstance(tensor, FakeTensor):
                self._note(tensor, "casts" if cast else "activations")
        return made

    def _grouped(self, left: Any, right: Any, offs: Any, *rest: Any, **kwargs: Any) -> Any:
        """Each token's product with the matrix of its expert; torch's own shape function takes bfloat16 alone."""
        del rest, kwargs
        self.recording.flops += 2.0 * left.shape[-2] * left.shape[-1] * right.shape[-1]
        leading = (len(offs),) if left.dim() == right.dim() == 2 else ()
        return left.new_empty((*leading, left.shape[-2], right.shape[-1]))

    def _note(self, tensor: torch.Tensor, kind: str) -> None:
        storage, address = tensor.untyped_storage(), storage_address(tensor)
        if address in self._alive or address in self._weights:
            return
        recording = self.recording
        one = _Storage(recording.events, storage.nbytes(), tensor.shape[-1] if tensor.dim() else 1, kind)
        recording.events += 1
        recording.storages.append(one)
        self._alive[address] = one
        weakref.finalize(storage, self._free, address, one)

    def _free(self, address: int, one: _Storage) -> None:
        self._alive.pop(address, None)
        one.freed = self.recording.events
        self.recording.events += 1

    def name_logits(self, shape: tuple[int, ...]) -> None:
        """Mark the storages of the logits and of their copies by the logits' shape, (K, V)."""
        targets, vocabulary = shape
        for one in self.recording.storages:
            if one.width == vocabulary and one.size in (targets * vocabulary * item for item in (2, 4)):
                one.kind = "logits"

    def name_gradients(self, gradients: Iterable[torch.Tensor]) -> None:
        """Mark the storages that hold gradients at the end."""
        for gradient in gradients:
            if one := self._alive.get(storage_address(gradient)):
                one.kind = "gradients"


def _number(tensor: Any) -> bool | int | float:
    """The number in a tensor; 0 where it has none, as a dropped layer or a passed limit would need another."""
    try:
        return _NUMBER(tensor)
    except DataDependentOutputException:
        return False if tensor.dtype == torch.bool else 0.0 if tensor.is_floating_point() else 0
