"""Merge an adapter into its base, and accept the result only if it computes what the adapter computes.

The merge is done in float32 whatever the base's dtype, checked there, and cast once at the end: merging in bfloat16
rounds every weight twice (peft#2368 is what that looks like). The written model is then read back, since a model with
tied embeddings can lose one of two matrices on the way to disk: its weights have to be those that were merged, bit for
bit, its settings have to compute the same with them, and in the dtype that it is served in it may lose little more than
the adapter, or the base alone, loses by that dtype.

That last comparison is one of samples. `FACTOR` is chosen from measured ratios; the error rates are in
benchmarks/README.md ("Merges"), and `benchmarks/merges.py` measures them.
"""

from __future__ import annotations

import gc
import hashlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from tuneyard.errors import IntegrityError
from tuneyard.models import load_adapter, load_model, outline_model
from tuneyard.network import make_savable
from tuneyard.train.agreement import Distance, Text, distance, largest_difference, other_choices, read_logits
from tuneyard.train.signals import never

TOLERANCE = 1e-3
"""Largest difference of a logit between adapter and merged model in float32, relative to the largest logit."""

SHARE = 0.02
"""The same, relative to the largest change of a logit by the adapter: the loss of a part of it shows."""

ROUNDING = 2e-5
"""A difference of logits that rounding in float32 explains, relative to the largest logit (measured: up to 4e-6)."""

FACTOR = 2.0
"""Largest divergence, relative to the one that the cast causes in the adapter or the base (measured: 0.9 to 1.4)."""

ERRORS = 4.0
"""By how many of its standard errors a mean divergence has to be above that: single tokens can be most of it."""

UNLIKELY = 1e-6
"""How improbable a number of other greedy tokens has to be, given the cast's own, to refuse a merge."""

ANSWER_TOKENS = 32
"""Length of the greedy answers that are compared."""

REREAD_TEXTS = 2
"""How many texts, the longest ones, show whether the written settings belong to the weights."""


class MergeStopped(Exception):  # noqa: N818  (no error, as trainer.Stopped is none)
    """Raised when a merge is stopped before it is done; no file of it remains."""


@dataclass(frozen=True)
class MergeCheck:
    """How far a merged model is from the adapter that it came from.

    Divergences are per token over held-out texts and greedy answers, in nats, each from the same model in float32;
    the typical one is the geometric mean. Numbers of choices are positions whose greedy token the cast changes.

    Attributes:
        logits: The largest difference of a logit in float32, relative to the largest logit of its text.
        effect: How much the adapter changes the base's logits, in the same measure.
        dtype: The type that the merged model is written and served in.
        positions: How many positions were compared.
        answer_tokens: How many of them are of greedy answers; all of these were the same in float32, save ties.
        kl: Mean divergence of the written model from the adapter in float32.
        kl_adapter: What the adapter on its base loses in `dtype`.
        kl_base: What the base alone loses in `dtype`.
        kl_typical: Typical divergence of the written model.
        kl_typical_adapter: That of the adapter on its base.
        kl_typical_base: That of the base alone.
        choices: Other greedy tokens of the written model.
        choices_adapter: Those of the adapter on its base.
        choices_base: Those of the base alone.
    """

    logits: float
    effect: float
    dtype: str
    positions: int
    answer_tokens: int
    kl: float
    kl_adapter: float
    kl_base: float
    kl_typical: float
    kl_typical_adapter: float
    kl_typical_base: float
    choices: int
    choices_adapter: int
    choices_base: int


def merge_adapter(
    base_folder: Path,
    adapter_folder: Path,
    target: Path,
    prompts: Sequence[Sequence[int]],
    *,
    texts: Sequence[Text] = (),
    entries: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] = never,
) -> MergeCheck:
    """Write base and adapter as one model.

    Args:
        base_folder: The verified base model.
        adapter_folder: The adapter, as `save_pretrained` wrote it.
        target: The folder of the merged weights; created if missing.
        prompts: Token ids of the beginnings of some conversations; both models answer each of them greedily.
        texts: Held-out texts that both models read.
        entries: Entries of the base's config that the adapter was trained with; the merged model's config has them.
        stop: Whether to end early.

    Returns:
        The results of the comparison.

    Raises:
        IntegrityError: If the merged model computes something else; nothing is left at `target` then.
        MergeStopped: If `stop` returned True.
    """
    merge = _Merge(base_folder, adapter_folder, dict(entries or {}), stop)
    try:
        exact = merge.write(target, prompts, texts)
        return merge.check_written(target, exact)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Exact:
    """What the models compute in float32, and what was written.

    Attributes:
        texts: What all of them have read; the first ones are the base's too.
        answer_tokens: How many positions are of greedy answers.
        base: `logits_CV` of the base, for the first texts.
        adapter: The same of the adapter, for every text.
        difference: See `MergeCheck.logits`.
        effect: See `MergeCheck.effect`.
        weights: The SHA-256 of each weight that was written, by name.
        reread: Some texts, and what the weights that were written predict of them in float32.
    """

    texts: Sequence[Text]
    answer_tokens: int
    base: Sequence[torch.Tensor]
    adapter: Sequence[torch.Tensor]
    difference: float
    effect: float
    weights: Mapping[str, str]
    reread: tuple[Sequence[Text], Sequence[torch.Tensor]]


class _Merge:
    """One merge; a model is dropped before the next is loaded, so that one in float32 is the most that is held."""

    def __init__(self, base: Path, adapter: Path, entries: Mapping[str, Any], stop: Callable[[], bool]) -> None:
        self._base, self._adapter, self._entries, self._stop = base, adapter, entries, stop
        outline = outline_model(base, where=str(base), **entries)
        self._dtype = outline.dtype
        self._types = {name: weight.dtype for name, weight in outline.state_dict().items()}

    def write(self, target: Path, prompts: Sequence[Sequence[int]], texts: Sequence[Text]) -> _Exact:
        """Merge in float32, compare there, cast and save."""
        base = load_model(self._base, where=str(self._base), dtype=torch.float32, **self._entries).eval()
        make_savable(base)
        held_out = [*texts] or [Text(prompt, len(prompt)) for prompt in prompts]
        plain = self._read(base, held_out)
        adapted = load_adapter(base, self._adapter, where=str(self._adapter))
        _separate(adapted)
        texts = [*held_out, *(self._answered(adapted, prompt) for prompt in prompts)]
        before = self._read(adapted, texts)
        merged: Any = adapted.merge_and_unload(safe_merge=True)
        _untie(merged)
        effect = largest_difference(plain, before[: len(plain)])
        difference = _check_exact(before, self._read(merged, texts), effect)
        self._cast(merged)
        weights = _digests(merged)
        self._check_stop()
        merged.save_pretrained(target)
        longest = sorted(texts, key=lambda text: len(text.ids))[-REREAD_TEXTS:]
        reread = (longest, self._read(merged.float(), longest))
        return _Exact(texts, len(prompts) * ANSWER_TOKENS, plain, before, difference, effect, weights, reread)

    def check_written(self, target: Path, exact: _Exact) -> MergeCheck:
        """Read the written model back, and compare it with the merged one and with the cost of the cast."""
        gc.collect()  # models with adapters hold themselves
        of_base, of_adapter = self._losses(exact)
        gc.collect()
        self._check_stop()
        written = load_model(target, where=str(target), dtype=self._dtype).eval()
        _check_weights(exact.weights, _digests(written))
        of_merged = distance(exact.adapter, self._read(written, exact.texts))
        texts, expected = exact.reread
        _check_settings(expected, self._read(written.float(), texts))
        if self._dtype != torch.float32:
            _check_cast(of_merged, of_adapter, of_base, self._dtype)
        return MergeCheck(
            logits=exact.difference,
            effect=exact.effect,
            dtype=str(self._dtype).removeprefix("torch."),
            positions=of_merged.positions,
            answer_tokens=exact.answer_tokens,
            kl=of_merged.kl,
            kl_adapter=of_adapter.kl,
            kl_base=of_base.kl,
            kl_typical=of_merged.kl_typical,
            kl_typical_adapter=of_adapter.kl_typical,
            kl_typical_base=of_base.kl_typical,
            choices=of_merged.choices,
            choices_adapter=of_adapter.choices,
            choices_base=of_base.choices,
        )

    def _losses(self, exact: _Exact) -> tuple[Distance, Distance]:
        """What the base alone and the adapter on it lose in the written model's dtype, loaded as serving does it."""
        if self._dtype == torch.float32:
            return distance(exact.base, exact.base), distance(exact.adapter, exact.adapter)
        base = load_model(self._base, where=str(self._base), dtype=self._dtype, **self._entries).eval()
        of_base = distance(exact.base, self._read(base, exact.texts[: len(exact.base)]))
        adapted = load_adapter(base, self._adapter, where=str(self._adapter))
        return of_base, distance(exact.adapter, self._read(adapted, exact.texts))

    def _read(self, model: Any, texts: Sequence[Text]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        for text in texts:
            self._check_stop()
            found += read_logits(model, [text])
        return found

    @torch.no_grad()
    def _answered(self, model: Any, prompt: Sequence[int]) -> Text:
        """Append the greedy answer to a prompt; it doesn't stop early, so that there is enough to compare."""
        ids = list(prompt)
        cache = None
        for _ in range(ANSWER_TOKENS):
            self._check_stop()
            unread = torch.tensor([ids if cache is None else ids[-1:]])
            output = model(input_ids=unread, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids.append(int(output.logits[0, -1].argmax()))
        return Text(ids[:-1], ANSWER_TOKENS)

    def _cast(self, model: torch.nn.Module) -> None:
        """Cast each weight to the type that it has in the base: some stay float32 in a model of any dtype."""
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if weight.is_floating_point() and (name in self._types or isinstance(weight, torch.nn.Parameter)):
                weight.data = weight.data.to(self._types.get(name, self._dtype))

    def _check_stop(self) -> None:
        if self._stop():
            raise MergeStopped


def _separate(adapted: PeftModel) -> None:
    """Assign the output embeddings a matrix of their own where the adapter changes one of two that are tied.

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
    """Untie input and output embeddings in the settings if training has separated them."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    if not model.config.tie_word_embeddings or outputs is None or inputs.weight is outputs.weight:
        return
    if torch.equal(inputs.weight, outputs.weight):
        outputs.weight = inputs.weight
    else:
        model.config.tie_word_embeddings = False


def _digests(model: torch.nn.Module) -> dict[str, str]:
    """Hash each weight, so that two models are compared without both of them in memory."""
    return {
        name: hashlib.sha256(weight.detach().contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for name, weight in model.state_dict().items()
    }


def _check_exact(before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], effect: float) -> float:
    """Compare two models in float32, and return the largest difference of a logit."""
    difference = largest_difference(before, after)
    allowed = min(TOLERANCE, max(SHARE * effect, ROUNDING))
    if not difference <= allowed:
        raise _refused(
            f"The merged model's logits differ from the adapter's by {difference:.2e} of the largest logit "
            f"(allowed: {allowed:.1e}; the adapter changes the base's by {effect:.2e})",
            difference=difference,
        )
    if others := other_choices(before, after, tie=2 * ROUNDING):
        raise _refused(f"{others} tokens of the merged model's greedy answers differ from the adapter's")
    return difference


def _check_weights(merged: Mapping[str, str], written: Mapping[str, str]) -> None:
    lost = sorted(name for name in merged.keys() | written.keys() if merged.get(name) != written.get(name))
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise _refused(f"The written model's weights differ from the merged ones: {lost[0]}{more}", weights=lost)


def _check_settings(merged: Sequence[torch.Tensor], written: Sequence[torch.Tensor]) -> None:
    """Compare what the same weights compute with the settings that were written."""
    difference = largest_difference(merged, written)
    if not difference <= ROUNDING:
        raise _refused(
            f"With the config.json that was written, the same weights' logits differ by {difference:.2e} of the "
            f"largest logit (allowed: {ROUNDING:.0e})",
            difference=difference,
        )


def _check_cast(merged: Distance, adapter: Distance, base: Distance, dtype: torch.dtype) -> None:
    """Refuse a merged model that loses more by its dtype than the adapter and the base do."""
    typical = FACTOR * max(adapter.kl_typical, base.kl_typical)
    mean = FACTOR * max(adapter.kl, base.kl) + ERRORS * merged.kl_error
    for name, found, allowed in (("typical", merged.kl_typical, typical), ("mean", merged.kl, mean)):
        if not found <= allowed:
            raise _refused(
                f"In {dtype} the written model diverges from the adapter by {found:.2e} nats per token ({name}; "
                f"allowed: {allowed:.1e}; the dtype alone costs the adapter {adapter.kl:.1e} and the base "
                f"{base.kl:.1e})",
                divergence=found,
            )
    # One choice more than was seen: none among few is no proof that there are none. Rates grow as the root of KL.
    rate = max((each.choices + 1) / each.positions for each in (adapter, base))
    most = _poisson_bound(math.sqrt(FACTOR) * rate * merged.positions, limit=merged.positions)
    if merged.choices > most:
        raise _refused(
            f"In {dtype} {merged.choices} of {merged.positions} greedy tokens of the written model differ from the "
            f"adapter's (allowed: {most})",
            choices=merged.choices,
        )


def _poisson_bound(mean: float, *, limit: int) -> int:
    """Return the least count up to a limit that a Poisson variable exceeds with a probability below `UNLIKELY`."""
    count, term = 0, math.exp(-mean)
    below = term
    while count < limit and 1 - below >= UNLIKELY:
        count += 1
        term *= mean / count
        below += term
    return count


def _refused(what: str, **details: Any) -> IntegrityError:
    return IntegrityError(f"{what}, so the merge is not published.", hint="Serve the adapter itself.", **details)
