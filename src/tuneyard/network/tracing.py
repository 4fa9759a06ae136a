"""What the largest micro-batch of a run computes and allocates, traced on the model itself without its weights.

The model comes from the meta device, with its adapter, and its own forward and backward pass is recorded (`recording`).
So nothing is known here of any architecture, and everything counts that a pass keeps: an activation function's inputs,
the states of a scan, the experts that a token uses. What it costs is the dispatch of each operation, some 0.2 ms,
whatever the shapes.

A model that loops over tokens in Python (a state space model without its kernels) is recorded on short rows, and what
long ones take is extrapolated. One whose pass needs numbers is counted by the widths of its weights. Both are noted.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from inspect import signature
from typing import Any

import torch
from transformers import AttentionInterface

from tuneyard.models import unusable
from tuneyard.network.attention import PER_CONVERSATION, per_conversation_attention
from tuneyard.network.forms import Form, Forward
from tuneyard.network.isolation import candidates
from tuneyard.network.private import attention_of
from tuneyard.network.recording import Conversation, Recording, Stage, StepTrace, TooManyOperationsError

_SHORT_TOKENS = 4
_CHUNK_TOKENS = 128  # a multiple of the chunks that linear attention is computed in
_LOOPS = 2
"""How many times as many operations as a short row a long one takes where something loops over its tokens."""
_MOST_TOKENS = 2**22  # the ids and positions of a row are real
_COUNTED = "tuneyard_per_conversation_counted"
_EXTRAPOLATED = "activations and time for rows of this length are extrapolated from shorter rows"
_ONE_BY_ONE = (
    "one conversation at a time is assumed, since not every layer keeps the conversations of a row apart; "
    "a check of the model decides when training starts"
)


@dataclass(frozen=True, slots=True)
class Traced:
    """What a micro-batch takes.

    Attributes:
        trace: Its operations and bytes.
        tokens: Its tokens.
        notes: What was assumed, or could not be traced.
    """

    trace: StepTrace
    tokens: int
    notes: tuple[str, ...] = ()


def trace_step(
    model: torch.nn.Module,
    base: Any,
    conversations: Sequence[Conversation],
    *,
    together: int = 1,
    configured: str | None = None,
    autocast: str | None = None,
    accumulates: bool = False,
) -> Traced:
    """Trace a micro-batch.

    Args:
        model: What is trained, on the meta device; its weights become fake tensors.
        base: The model of transformers within it.
        conversations: Those of the micro-batch, the largest first.
        together: How many of them belong together: 1, or the 2 answers of a preference.
        configured: The attention implementation in the values; None if there is none.
        autocast: The type that is computed in, by torch's name; None for the weights' own.
        accumulates: Whether gradients of an earlier micro-batch are there.
    """
    model.train()
    stage = Stage(model, autocast, accumulates)
    selects = "logits_to_keep" in signature(base.forward).parameters
    notes: tuple[str, ...] = ()
    reason = ""
    for form, attention in candidates(configured):
        if notes and form is Form.FLAT:
            continue
        chosen = conversations if form is Form.FLAT else conversations[:together]
        try:
            with _attention(base, attention) as attended:
                trace, extrapolated = _trace(stage, Forward(form, selects), chosen)
        except unusable() as error:
            reason = reason or next(iter(str(error).strip().splitlines()), "") or type(error).__name__
            continue
        if attention == PER_CONVERSATION and len(attended) < _layers(base) and len(conversations) > together:
            notes = (_ONE_BY_ONE,)
            continue
        return Traced(trace, _tokens(chosen), (*notes, *extrapolated))
    return Traced(
        _from_widths(model, base, conversations),
        _tokens(conversations),
        (f"activations and time are estimated from the layers' widths: a pass can't be traced ({reason})",),
    )


@contextmanager
def _attention(base: Any, name: str) -> Generator[list[None]]:
    """Use an attention implementation, or the model's own if empty, and count the calls of ours."""
    calls: list[None] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return per_conversation_attention(*args, **kwargs)

    if not name:
        yield calls
        return
    before = attention_of(base.config)
    if name == PER_CONVERSATION:
        AttentionInterface.register(_COUNTED, counted)
        name = _COUNTED
    base.set_attn_implementation(name)
    try:
        yield calls
    finally:
        base.set_attn_implementation(before)


def _layers(base: Any) -> int:
    return int(getattr(base.config.get_text_config(), "num_hidden_layers", 1))


def _tokens(conversations: Sequence[Conversation]) -> int:
    return sum(each.tokens for each in conversations)


def _trace(stage: Stage, forward: Forward, conversations: Sequence[Conversation]) -> tuple[StepTrace, tuple[str, ...]]:
    count = len(conversations)
    first = stage.run(forward, [Conversation(_SHORT_TOKENS, 1)] * count)
    if _tokens(conversations) <= _MOST_TOKENS:
        try:
            return stage.run(forward, conversations, most=_LOOPS * first.operations).trace(), ()
        except TooManyOperationsError:
            pass
    return _extrapolate(stage, forward, conversations, first), (_EXTRAPOLATED,)


def _extrapolate(stage: Stage, forward: Forward, conversations: Sequence[Conversation], first: Recording) -> StepTrace:
    """Extrapolate from short rows to long ones, since every token and every target adds the same."""
    count, unit = len(conversations), _SHORT_TOKENS
    longer = stage.run(forward, [Conversation(2 * unit, 1)] * count)
    if longer.operations == first.operations:  # if it loops, then over chunks of tokens
        unit = _CHUNK_TOKENS
        first = stage.run(forward, [Conversation(unit, 1)] * count)
        longer = stage.run(forward, [Conversation(2 * unit, 1)] * count)
    wider = stage.run(forward, [Conversation(2 * unit, unit)] * count)
    measured = [astuple(one.trace(at_turn=True)) for one in (first, longer, wider)]
    tokens = _tokens(conversations) / count / unit - 1
    targets = (sum(each.targets for each in conversations) / count - 1) / (unit - 1)
    triples = zip(*measured, strict=True)
    return StepTrace(*(max(0.0, one + tokens * (two - one) + targets * (three - two)) for one, two, three in triples))


def _from_widths(model: torch.nn.Module, base: Any, conversations: Sequence[Conversation]) -> StepTrace:
    """Count a product for each weight and token, of experts those that a token uses, and keep its ends.

    Two operations for each weight and token forward, and as many for the gradients of inputs and of trained weights
    (arxiv.org/abs/2001.08361, section 2.1).
    """
    tokens, targets = _tokens(conversations), sum(each.targets for each in conversations)
    head = base.get_output_embeddings()
    embedding_weights = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    flops, kept = 0.0, 0.0
    for weight in model.parameters():
        if weight.dim() < 2 or (id(weight) in embedding_weights and (head is None or weight is not head.weight)):
            continue
        times = targets if head is not None and weight is head.weight else tokens
        used = min(_experts_used(base), weight.shape[0]) if weight.dim() == 3 else math.prod(weight.shape[:-2])
        size = used * weight.shape[-2] * weight.shape[-1]
        flops += times * size * (6 if weight.requires_grad else 4)
        kept += times * used * sum(weight.shape[-2:]) * weight.element_size() if times == tokens else 0
    vocabulary = 0 if head is None else head.weight.shape[0]
    logits = 3 * 4 * targets * vocabulary
    return StepTrace(flops, kept, logits, 0, 0, kept)


def _experts_used(base: Any) -> int:
    """How many experts a token goes to, by the routers' own count; all of them where there is none."""
    counts = [getattr(module, "top_k", None) for module in base.modules()]
    return max((count for count in counts if isinstance(count, int)), default=10**9)
