"""The peak memory of one training process by part: what its weights take, and what a traced micro-batch adds.

Weights, gradients and the optimizer's states are counted from the shapes and types of the model that is trained
(`network`); what a pass keeps was recorded on it (`tuneyard.network.tracing`). Three numbers are measured, on the CPU:
what the programs take, what an optimizer's step takes besides its states, and what the C library's heap keeps.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tuneyard.estimate.network import Network
from tuneyard.estimate.work import Work
from tuneyard.values import FinetuneValues

if TYPE_CHECKING:
    from tuneyard.network import StepTrace

MIB = 2**20
RUNTIME_BYTES = {"cpu": 560 * MIB, "accelerator": 1024 * MIB}
"""Interpreter, torch, transformers and peft without any model: measured on the CPU; a GPU's context assumed."""
HEAP_SHARE = 0.33
"""Of what a forward pass allocates and frees between what it keeps, the share that glibc's heap can't use again: fitted
to the configurations of `benchmarks/README.md`, in which it was 0.1 to 0.5."""

STATE_ITEMS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_anyprecision", "paged_adamw_32bit"), 2.0),
    **dict.fromkeys(("sgd", "lomo", "adafactor", "adalomo"), 0.0),
    **dict.fromkeys(("adagrad", "rmsprop", "rmsprop_bnb", "rmsprop_bnb_32bit", "lion_32bit", "paged_lion_32bit"), 1.0),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 3.0),
}
"""Numbers of the parameter's own type that an optimizer keeps for each trained one; two where it is not listed."""
STATE_BYTES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2.0),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit", "adamw_torch_4bit"), 1.0),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3.0),
}
"""Bytes, for those that quantize their state."""
_FACTORED = ("adafactor", "adalomo")
_SCRATCH_ITEMS = {"adafactor": 3, "adamw_torch_fused": 0, "sgd": 0}
"""Temporary copies of the largest trained tensor that a step makes; two where it is not listed."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its peak, by part, and the moment of the peak.

    Attributes:
        runtime: Programs and libraries, or an accelerator's context.
        weights: The model and the adapter, and copies of weights in the type that is computed in.
        gradients: Of the trained weights, as far as they exist at the peak.
        optimizer: The optimizer's states and its scratch.
        activations: What is kept for, and used in, the backward pass.
        logits: Logits and the buffers of the loss.
        heap: On the CPU, freed memory that the C library keeps: holes between what outlives them.
        data: The encoded rows.
        moment: `backward` or `optimizer`.
    """

    runtime: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    heap: int
    data: int
    moment: str

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(size for size in asdict(self).values() if isinstance(size, int))


def estimate_memory(
    values: FinetuneValues, network: Network, trace: StepTrace, work: Work, *, accumulates: bool
) -> Memory:
    """Estimate the peak of one process.

    Args:
        values: The resolved values.
        network: What is trained.
        trace: What the largest micro-batch takes.
        work: What the run goes through.
        accumulates: Whether a step has several micro-batches, the later of which find gradients there.
    """
    on_cpu = not values.gpuResource
    states = state_bytes(values, network)
    exchanged = network.trained_bytes if values.processes > 1 else 0  # buckets of the exchange
    shared = {
        "runtime": RUNTIME_BYTES["cpu" if on_cpu else "accelerator"],
        "heap": round(trace.transient * HEAP_SHARE) if on_cpu else 0,
        "data": 5 * (work.tokens_per_epoch or 0),
    }
    weights = network.bytes + (network.remapped_bytes if on_cpu else 0)
    backward = Memory(
        weights=weights + round(trace.casts),
        gradients=round(trace.gradients) + exchanged + (network.trained_bytes if accumulates else 0),
        optimizer=states if work.steps is None or work.steps > 1 else 0,
        activations=round(trace.activations),
        logits=round(trace.logits),
        moment="backward",
        **shared,
    )
    scratch = _SCRATCH_ITEMS.get(values.finetuning_config.training_args.optim, 2) * network.largest * 4
    optimizer = Memory(
        weights=weights,
        gradients=network.trained_bytes + exchanged,
        optimizer=states + scratch,
        activations=0,
        logits=0,
        moment="optimizer",
        **shared,
    )
    return max(backward, optimizer, key=lambda memory: memory.total)


def state_bytes(values: FinetuneValues, network: Network) -> int:
    """Bytes of the optimizer's states, as they are also saved in a checkpoint."""
    optim = values.finetuning_config.training_args.optim
    if optim in STATE_BYTES:
        return int(network.trained * STATE_BYTES[optim])
    if optim in _FACTORED:  # a row and a column instead of a matrix
        return 4 * sum(_factored(shape) for shape in network.shapes)
    return int(network.trained_bytes * STATE_ITEMS.get(optim, 2.0))


def _factored(shape: tuple[int, ...]) -> int:
    if len(shape) < 2:
        return math.prod(shape)
    return math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))


def uncounted(values: FinetuneValues) -> list[str]:
    """List what of a run's memory is not counted."""
    notes: list[str] = []
    conf, optim = values.finetuning_config.quant_conf, values.finetuning_config.training_args.optim
    if conf.quantization_type != "no-quantization":
        notes.append("quant_conf: weights are counted as delivered; quantized weights take less")
    if optim not in {*STATE_ITEMS, *STATE_BYTES}:
        notes.append(f"the optimizer's states are assumed to be those of AdamW: what '{optim}' keeps is not known")
    return notes
