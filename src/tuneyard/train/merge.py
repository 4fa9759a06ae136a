"""Merge an adapter into its base, and only accept the result where it computes what the adapter computes.

The merge is done in float32 whatever the base's dtype, checked there, and cast once at the end: merging in bfloat16
rounds every weight twice (peft#2368 is what that looks like). Then what was written is read again and checked in the
dtype that it will be served in, since a model with tied embeddings can lose one of two matrices on the way to disk.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from tuneyard.errors import IntegrityError
from tuneyard.models import load_adapter, load_model, outline_model
from tuneyard.train.model import make_savable

TOLERANCE = 1e-3
"""Largest difference of a logit between adapter and merged model in float32, relative to the largest logit."""

SERVED_TOLERANCE = 5e-2
"""The same for the written model in its own dtype (bfloat16 has 8 bits of mantissa) against the adapter in float32."""

ANSWER_TOKENS = 32
"""Length of the greedy answers that are compared."""


@dataclass(frozen=True)
class MergeCheck:
    """How far a merged model is from the adapter that it came from.

    Attributes:
        logits: The largest difference of a logit in float32, relative to the largest logit of its conversation.
        served_logits: The same for what was written, in the dtype that it is served in.
        answer_tokens: How many tokens of greedy answers were compared; all of them were the same in float32.
        served_ties: How many of them come out otherwise in the dtype that is served: two tokens lay so close together
            that rounding decides.
    """

    logits: float
    served_logits: float
    answer_tokens: int
    served_ties: int


def merge_adapter(
    base_folder: Path,
    adapter_folder: Path,
    target: Path,
    prompts: Sequence[Sequence[int]],
    *,
    tolerance: float = TOLERANCE,
    served_tolerance: float = SERVED_TOLERANCE,
) -> MergeCheck:
    """Write base and adapter as one model.

    Args:
        base_folder: The verified base model.
        adapter_folder: The adapter, as `save_pretrained` wrote it.
        target: Where the merged weights go; made if need be.
        prompts: Token ids of the beginnings of some conversations; both models answer each of them greedily.
        tolerance: The largest difference to accept in float32.
        served_tolerance: The largest difference to accept of what was written.

    Returns:
        What was compared.

    Raises:
        IntegrityError: Where a difference is above its tolerance or not a number, or an answer is another one; nothing
            is left at `target` then.
    """
    base = load_model(base_folder, where=str(base_folder), dtype=torch.float32)
    make_savable(base)
    dtype = outline_model(base_folder, where=str(base_folder)).dtype
    adapted = load_adapter(base, adapter_folder, where=str(adapter_folder))
    _separate(adapted)
    answered = [_answered(adapted, prompt) for prompt in prompts]
    before = [_logits(adapted, ids) for ids in answered]
    merged = adapted.merge_and_unload(safe_merge=True)
    _untie(merged)
    after = [_logits(merged, ids) for ids in answered]
    difference = _largest_difference(before, after)
    _refuse_above(tolerance, difference, "the merged model's")
    said = [slice(len(prompt) - 1, len(ids) - 1) for prompt, ids in zip(prompts, answered, strict=True)]
    if others := _other_choices(before, after, said):
        raise _refused(f"{others} tokens of the merged model's greedy answers are not the adapter's", difference)
    merged.to(dtype).save_pretrained(target)
    del base, adapted, merged
    gc.collect()
    try:
        written = load_model(target, where=str(target), dtype=dtype).eval()
        served = [_logits(written, ids) for ids in answered]
        served_difference = _largest_difference(before, served)
        _refuse_above(served_tolerance, served_difference, f"in {dtype}, the written model's")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    count = sum(part.stop - part.start for part in said)
    return MergeCheck(difference, served_difference, count, _other_choices(before, served, said))


def _separate(adapted: PeftModel) -> None:
    """Give the output embeddings a matrix of their own where the adapter changes one of two that are tied.

    Merging into the shared matrix would change both ends of the model, while the adapter changes one, or would change
    it twice where the adapter is tied too (`ensure_weight_tying`).
    """
    model: Any = adapted.get_base_model()
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if not any(isinstance(one, BaseTunerLayer) for one in (inputs, outputs)):
        return
    plain, head = (getattr(one, "base_layer", one) for one in (inputs, outputs))
    if plain.weight is head.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())


def _untie(model: Any) -> None:
    """Say in the settings that input and output embeddings are two where training made two of one."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if not model.config.tie_word_embeddings or outputs is None or inputs.weight is outputs.weight:
        return
    if torch.equal(inputs.weight, outputs.weight):
        outputs.weight = inputs.weight
    else:
        model.config.tie_word_embeddings = False


@torch.no_grad()
def _answered(model: Any, prompt: Sequence[int]) -> list[int]:
    """Append the greedy answer to a prompt; it doesn't stop early, so that there is enough to compare."""
    ids = list(prompt)
    cache = None
    for _ in range(ANSWER_TOKENS):
        output = model(
            input_ids=torch.tensor([ids if cache is None else ids[-1:]]), past_key_values=cache, use_cache=True
        )
        cache = output.past_key_values
        ids.append(int(output.logits[0, -1].argmax()))
    return ids


@torch.no_grad()
def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Shape `(len(ids), vocabulary)`, float32."""
    return model(input_ids=torch.tensor([ids])).logits[0].float()


def _largest_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    pairs = zip(before, after, strict=True)
    ratios = [float((one - other).abs().max() / one.abs().max().clamp(min=1e-6)) for one, other in pairs]
    return max(ratios, default=0.0)


def _other_choices(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], said: Sequence[slice]) -> int:
    return sum(
        int((one[part].argmax(-1) != other[part].argmax(-1)).sum())
        for one, other, part in zip(before, after, said, strict=True)
    )


def _refuse_above(tolerance: float, difference: float, whose: str) -> None:
    if not difference <= tolerance:
        raise _refused(
            f"{whose} logits differ from the adapter's by {difference:.2e} of the largest logit "
            f"(allowed: {tolerance:.0e})",
            difference,
        )


def _refused(what: str, difference: float) -> IntegrityError:
    return IntegrityError(
        f"{what}, so the merge is not published",
        hint="serve the adapter itself: base and adapter are both in the bucket",
        difference=difference,
    )
