"""Merge an adapter into its base, and only accept the result where it computes what the adapter computes.

The merge is done in float32 whatever the base's dtype, checked there, and cast once at the end: merging in bfloat16
rounds every weight twice (peft#2368 is what that looks like).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tuneyard.errors import IntegrityError
from tuneyard.train.model import make_savable

TOLERANCE = 1e-3
"""Largest difference of a logit between adapter and merged model in float32, relative to the largest logit."""


def merge_adapter(
    base_folder: Path,
    adapter_folder: Path,
    target: Path,
    samples: Sequence[Sequence[int]],
    *,
    tolerance: float = TOLERANCE,
) -> float:
    """Write base and adapter as one model.

    Args:
        base_folder: The verified base model.
        adapter_folder: The adapter, as `save_pretrained` wrote it.
        target: Where the merged weights go; made if need be.
        samples: Token ids of some conversations, to compare the two on.
        tolerance: The largest difference to accept.

    Returns:
        The largest relative difference of a logit in float32.

    Raises:
        IntegrityError: Where the difference is above `tolerance` or not a number; nothing is written then.
    """
    base = _float32(base_folder)
    make_savable(base)
    dtype = AutoModelForCausalLM.from_pretrained(base_folder, local_files_only=True, device_map="meta").dtype
    adapted = PeftModel.from_pretrained(base, adapter_folder).eval()
    before = [_logits(adapted, sample) for sample in samples]
    merged = adapted.merge_and_unload(safe_merge=True)
    after = [_logits(merged, sample) for sample in samples]
    difference = _largest_difference(before, after)
    if not difference <= tolerance:
        raise IntegrityError(
            f"the merged model's logits differ from the adapter's by {difference:.2e} of the largest logit "
            f"(allowed: {tolerance:.0e}), so the merge is not published",
            hint="serve the adapter itself: base and adapter are both in the bucket",
            difference=difference,
        )
    merged.to(dtype).save_pretrained(target)
    del base, adapted, merged
    gc.collect()
    return difference


def _float32(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


@torch.no_grad()
def _logits(model: torch.nn.Module, sample: Sequence[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([sample])).logits[0]


def _largest_difference(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor]) -> float:
    pairs = zip(before, after, strict=True)
    ratios = [float((one - other).abs().max() / one.abs().max().clamp(min=1e-6)) for one, other in pairs]
    return max(ratios, default=0.0)
