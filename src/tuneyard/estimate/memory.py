"""The peak memory of one training process by part, from shapes alone.

What is counted is what `train` allocates: flat rows without padding, attention per conversation, logits only where they
count. Formulas per token and decoder layer follow what autograd keeps for the backward pass of a Llama-like layer
(compare arxiv.org/abs/2205.05198): both norms, the attention's inputs and outputs, four feed-forward widths.

Letters: h hidden, q and k query and key widths, i intermediate width, T tokens of a micro-batch, K of them trained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tuneyard.estimate.adapter import Adapter
from tuneyard.estimate.model import DTYPES, ModelFacts
from tuneyard.estimate.work import Work
from tuneyard.values import FinetuneValues

MIB = 2**20
RUNTIME_BYTES = {"cpu": 560 * MIB, "accelerator": 1024 * MIB}
"""Interpreter, torch, transformers and peft without any model: measured on the CPU; a GPU's context assumed."""

STATE_ITEMS = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_anyprecision", "paged_adamw_32bit"), 2.0),
    **dict.fromkeys(("sgd", "lomo", "adafactor", "adalomo"), 0.0),
    **dict.fromkeys(("adagrad", "rmsprop", "rmsprop_bnb_32bit", "lion_32bit", "paged_lion_32bit"), 1.0),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 3.0),
}
"""Numbers of the parameter's own type that an optimizer keeps for each trained one; two where it is not listed."""
STATE_BYTES = {
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit", "adamw_torch_8bit"), 2.0),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit", "adamw_torch_4bit"), 1.0),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3.0),
}
"""Bytes, for those that quantize their state."""
_SCRATCH = {"adafactor": 3, "adamw_torch_fused": 0, "sgd": 0}
_OUTWARD = ("o_proj", "down_proj", "c_proj", "out_proj", "dense_4h_to_h")
_FACTORED = ("adafactor", "adalomo")


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its peak, by part, and the moment of the peak.

    Attributes:
        runtime: Programs and libraries, or an accelerator's context.
        weights: The model and the adapter.
        gradients: Of what is trained, as far as they are there at the peak.
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


def estimate_memory(values: FinetuneValues, model: ModelFacts, adapter: Adapter, work: Work) -> Memory:
    """Estimate the peak of one process.

    Args:
        values: The resolved values.
        model: The base model.
        adapter: What is trained.
        work: The largest micro-batch.
    """
    args = values.finetuning_config.training_args
    item = weight_bytes(values, model)
    trained_item = 4 if adapter.frozen else item
    weights = model.parameters * item + adapter.added * 4
    mixed = item == 4 and (args.bf16 or args.fp16)
    weights += model.parameters * 2 if mixed else 0  # autocast keeps its casts for the step
    gradients = adapter.trained * trained_item * (2 if values.processes > 1 else 1)  # buckets of the exchange
    states = state_bytes(values, model, adapter)
    scratch = _SCRATCH.get(args.optim, 2) * adapter.largest * 4
    # A tied embedding gets one gradient from the head and another from the lookup, and both are there at once.
    tied = model.vocabulary * model.hidden * item if model.tied and not adapter.frozen else 0
    several = work.steps is None or work.steps > 1
    activations = _activations(values, model, adapter, work, 2 if mixed else item)
    logits = work.longest_trained * model.vocabulary * (12 if item == 4 and not mixed else 14)
    accumulated = gradients if _accumulates(values) else 0
    kept = states if several else 0
    holes = 0 if values.gpuResource else _holes(values, model, adapter, work, 2 if mixed else item)
    data = 5 * (work.tokens_per_epoch or 0)
    runtime = RUNTIME_BYTES["accelerator" if values.gpuResource else "cpu"]
    backward = Memory(runtime, weights, accumulated, kept, int(activations), logits, holes, data, "backward")
    last, left = 0, 0
    if args.gradient_checkpointing:  # all gradients are there while the first layer is computed again
        last = int(activations) - work.longest * model.layers * model.hidden * item
        left = 0 if values.gpuResource else logits
    step = states + max(scratch, tied)
    optimizer = Memory(runtime, weights, gradients, step, last, 0, left, data, "optimizer")
    return max(backward, optimizer, key=lambda memory: memory.total)


def _holes(values: FinetuneValues, model: ModelFacts, adapter: Adapter, work: Work, item: int) -> int:
    """What glibc can't use again while a forward pass keeps what lies around it.

    A freed block never holds an aligned block of the same size, so what is short-lived between what is kept stays:
    as measured, some eight widths per token and layer, and 1.6 times the output of each adapted module.
    """
    per_layer = (4 * model.hidden + 2 * model.query_width + 2 * model.key_width) * item
    adapters = sum(1.6 * model.modules[name][1] * item for name in adapter.ranks)
    layers = 1 if values.finetuning_config.training_args.gradient_checkpointing else model.layers
    return int(work.longest * (per_layer * layers + adapters * layers / model.layers))


def state_bytes(values: FinetuneValues, model: ModelFacts, adapter: Adapter) -> int:
    """Bytes of the optimizer's states, as they also lie in a checkpoint."""
    optim = values.finetuning_config.training_args.optim
    if optim in STATE_BYTES:
        return int(adapter.trained * STATE_BYTES[optim])
    size = adapter.trained * (4 if adapter.frozen else weight_bytes(values, model))
    if optim in _FACTORED:  # a row and a column instead of a matrix
        return size // min(model.hidden, 256)
    return int(size * STATE_ITEMS.get(optim, 2.0))


def weight_bytes(values: FinetuneValues, model: ModelFacts) -> int:
    """Bytes of one weight as it is loaded: `dtype` of model_args, else as it is stored."""
    asked = values.finetuning_config.run_conf.model_args.get("dtype", "auto")
    if asked == "auto":
        asked = model.config.get("dtype") or model.config.get("torch_dtype") or model.stored_dtype
    return DTYPES.get(str(asked), 4)


def _accumulates(values: FinetuneValues) -> bool:
    batch = values.finetuning_config.batchsize_conf
    total = batch.total_train_batch_size or values.processes
    return total // values.processes > batch.max_per_device_train_batch_size


def _activations(values: FinetuneValues, model: ModelFacts, adapter: Adapter, work: Work, item: int) -> float:
    h, q, k, i = model.hidden, model.query_width, model.key_width, model.intermediate
    norms = 2 * h * 4 + (0 if adapter.frozen else 4 * h * item)
    attention = (3 * q + 2 * k) * item
    feed_forward = (3 if adapter.frozen else 4) * i * item
    layer = norms + attention + feed_forward + _of_adapter(values, model, adapter, item) / model.layers
    asked = values.finetuning_config.run_conf.model_args.get("attn_implementation")
    if asked == "eager":  # scores and their softmax over the whole flat row, in float32 on the way
        layer += 2 * model.heads * work.longest * (item + 4)
    passing = (3 * i + 4 * h) * item  # gradients of one layer's inside, on their way
    if adapter.frozen:
        passing += 3 * i * item
    if values.finetuning_config.training_args.gradient_checkpointing:
        return work.longest * (model.layers * h * item + layer + passing)
    return work.longest * (model.layers * layer + passing)


def _of_adapter(values: FinetuneValues, model: ModelFacts, adapter: Adapter, item: int) -> float:
    """Bytes per token that the adapted modules of all layers keep."""
    dropout = values.finetuning_config.peft_conf.peft_kwargs.get("lora_dropout", 0)
    kept = 0
    inputs: set[tuple[str, bool]] = set()
    for name, rank in adapter.ranks.items():
        features_in, features_out = model.modules[name]
        above, _, last = name.rpartition(".")
        shared = (above, last in _OUTWARD)
        if item < 4:
            kept += features_in * 4  # the input is cast to the adapter's float32
        elif shared not in inputs and last != "o_proj":  # what several adapters read is kept once
            kept += features_in * item
        inputs.add(shared)
        kept += rank * 4
        kept += features_in * 8 if dropout else 0  # what was dropped, and the result
        kept += 3 * features_out * item if adapter.dora else 0
    return kept
