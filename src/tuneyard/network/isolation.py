"""Proof, on the model that is about to be trained, that each conversation is computed as if it were alone.

Kernels, masks, convolutions and recurrent states differ by architecture, library version and device, and a leak between
the conversations of a row, or from a token's future, shows in no error and hardly in the loss. So nothing is concluded
from an architecture's name: a few layers of the model, one of each kind, go through real rows in float32.

* The library's own attention on each conversation by itself is the reference. A change of its last token has to change
  no earlier prediction; otherwise the model is not causal and can't be trained.
* A form of rows (`forms`) is correct if it gives each of two conversations the predictions of the reference, and if
  a change of both last tokens changes nothing else, in training too.

The first correct form is taken: a flat row with our attention, a flat row with the library's, one conversation a row.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tuneyard.errors import InvalidDataError
from tuneyard.models import unusable
from tuneyard.network.attention import PER_CONVERSATION
from tuneyard.network.balance import balance_weight
from tuneyard.network.batches import EncodedRows, Row, flatten, moved
from tuneyard.network.forms import Form, Forward
from tuneyard.network.private import attention_of

TOLERANCE = 1e-4
"""The largest difference of a logit from the reference, relative to the logits' standard deviation. Float32 rounding
over a few layers gives up to 1e-5 in the architectures of transformers 5.19."""

LEAK_TOLERANCE = 3e-5
"""The largest effect of a last token on other predictions, relative as above. Everything but that token is computed
alike, so rounding gives up to 5e-7, by the order of experts' tokens; the smallest leak found there is 1.5e-4."""

_QUANTIZED_TOLERANCE = 5e-2
_SHORT_TOKENS = 24
_EDGE_TOKENS = 32
_LONGEST_TOKENS = {"cpu": 4096, "mps": 4096, "cuda": 32768}
"""The longest conversation that is checked: a sliding window or a chunk shows only in one that is longer."""


@dataclass(frozen=True, slots=True)
class RowForm:
    """The form of rows that is correct for a model.

    Attributes:
        form: How conversations are laid out.
        selects: Whether logits of chosen positions alone are computed.
        attention: The attention implementation; empty for the library's choice.
        notice: One line if it is slower or not what is configured; empty otherwise.
        balance_weight: Weight of the load-balancing loss that the model adds to its loss; 0 where it adds none.
    """

    form: Form
    selects: bool
    attention: str
    notice: str = ""
    balance_weight: float = 0.0

    @property
    def forward(self) -> Forward:
        """Runs rows of this form."""
        return Forward(self.form, self.selects)


def prove_form(model: Any, configured: str | None, rows: EncodedRows, device: torch.device, where: str) -> RowForm:
    """Find the form of rows that a model computes correctly; the model itself is not changed.

    Args:
        model: The base model, loaded with the library's own choice of attention.
        configured: The attention implementation in the values; None if there is none.
        rows: The encoded training data; its longest conversation is checked.
        device: The device of the training.
        where: The model's key, for messages.

    Returns:
        The first correct form.

    Raises:
        InvalidDataError: The model is not causal, computes no numbers, or no form is correct.
    """
    samples = _Samples.of(rows, _LONGEST_TOKENS.get(device.type, 4096))
    with _probe(model, device, samples, where) as probe:
        reference = _Reference(probe, samples, where)
        forms = candidates(configured)
        failures: list[str] = []
        for form, attention in forms:
            why = reference.refutes(form, attention)
            if why is None:
                notice = _notice(type(model).__name__, forms[0], form, attention, failures)
                return RowForm(
                    form, reference.selects, attention, notice, balance_weight(probe.model, samples.short, where)
                )
            failures.append(f"{form} rows{f' with {attention}' if attention else ''}: {why}")
    raise InvalidDataError(
        f"The model {where!r} ({type(model).__name__}) can't be trained: no row layout keeps "
        f"conversations apart ({'; '.join(failures)}).",
        hint="Remove model_args.attn_implementation, or choose another base model.",
        problems=[],
    )


def candidates(configured: str | None) -> list[tuple[Form, str]]:
    """Return the forms of rows to try, each with an attention implementation, the fastest first.

    Args:
        configured: The attention implementation in the values; None if there is none.
    """
    if configured in (None, "sdpa"):
        return [(Form.FLAT, PER_CONVERSATION), (Form.FLAT, ""), (Form.SINGLE, "")]
    return [(Form.FLAT, configured), (Form.SINGLE, configured)]


def _notice(name: str, first: tuple[Form, str], form: Form, attention: str, failures: list[str]) -> str:
    if (form, attention) == first:
        return ""
    what = "one conversation is computed at a time" if form is Form.SINGLE else "the library's attention is used"
    return f"{name} does not keep the conversations of a row apart ({failures[0]}): {what}, which gives the same losses"


@dataclass(frozen=True, slots=True)
class _Samples:
    """A short conversation, and the longest one."""

    short: np.ndarray[Any, Any]
    long: np.ndarray[Any, Any]

    @staticmethod
    def of(rows: EncodedRows, longest: int) -> _Samples:
        lengths = rows.lengths
        at = max(range(len(lengths)), key=lengths.__getitem__)
        long = np.array(rows[at]["input_ids"][:longest])
        short = np.array(rows[(at + 1) % len(rows)]["input_ids"][:_SHORT_TOKENS])
        return _Samples(short, long)

    def turned(self) -> _Samples:
        """The same tokens from end to beginning."""
        return _Samples(self.short[::-1].copy(), self.long[::-1].copy())

    def changed(self) -> _Samples:
        """The same with another last token in each."""
        return _Samples(_other_end(self.short), _other_end(self.long))

    @property
    def rows(self) -> tuple[Row, Row]:
        """As `flatten` takes them; every token but the first of each counts as a target near its ends."""
        return _row(self.short), _row(self.long)


def _other_end(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    others = ids[ids != ids[-1]]
    changed = ids.copy()
    changed[-1] = others[0] if len(others) else max(int(ids[-1]) - 1, 0)
    return changed


def _row(ids: np.ndarray[Any, Any]) -> Row:
    mask = np.zeros(len(ids), np.bool_)
    mask[: _EDGE_TOKENS + 1] = True
    mask[-_EDGE_TOKENS:] = True
    return Row(input_ids=ids.astype(np.int32), loss_mask=mask)


class _Reference:
    """What the probe computes for each conversation by itself, and the comparison of forms with it."""

    def __init__(self, probe: _Probe, samples: _Samples, where: str) -> None:
        self.probe = probe
        self.tolerance = _QUANTIZED_TOLERANCE if probe.quantized else TOLERANCE
        self.leak_tolerance = _QUANTIZED_TOLERANCE if probe.quantized else LEAK_TOLERANCE
        self.selects = "logits_to_keep" in inspect.signature(probe.model.forward).parameters
        alone = Forward(Form.SINGLE, self.selects)
        self.pairs = [(each, self._logits(alone, each)) for each in (samples, samples.turned())]
        first, logits = self.pairs[0]
        name = type(probe.model).__name__
        if logits.isnan().any():
            raise InvalidDataError(
                f"The model {where!r} predicts NaN for rows of the data: one of its weights is not a number.",
                hint="Deliver the model again from an intact source.",
                problems=[],
            )
        if self._differs(logits, self._logits(alone, first.changed())) > self.leak_tolerance:
            raise InvalidDataError(
                f"The model {where!r} ({name}) is not causal: a token's prediction depends on later tokens.",
                hint="Finetune a causal language model; an encoder needs is_decoder: true in its config.json.",
                problems=[],
            )

    def refutes(self, form: Form, attention: str) -> str | None:
        """Return why a form of rows is not correct; None if it is."""
        forward = Forward(form, self.selects)
        try:
            with self.probe.attention(attention):
                differences = [self._differs(logits, self._logits(forward, each)) for each, logits in self.pairs]
                # Equally likely experts may be chosen either way; a leak shows in both.
                if min(differences) > self.tolerance:
                    return f"predictions differ by {min(differences):.1e}"
                for training in (False, True):
                    difference = min(self._effect_of_last_tokens(forward, each, training) for each, _ in self.pairs)
                    if difference > self.leak_tolerance:
                        return f"changing a last token changes other predictions by {difference:.1e}"
                self._run_backward(forward)
        except unusable() as error:
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        return None

    def _effect_of_last_tokens(self, forward: Forward, samples: _Samples, training: bool) -> float:
        one, other = (self._logits(forward, each, training=training) for each in (samples, samples.changed()))
        return self._differs(one, other)

    def _run_backward(self, forward: Forward) -> None:
        """Compute gradients once: some kernels lack a backward pass."""
        probe = self.probe
        if probe.quantized:
            return  # its weights have no gradients; those of an adapter go through PEFT's own kernels
        probe.model.train()
        rows = moved(flatten(self.pairs[0][0].rows[:1]), probe.device)
        with torch.enable_grad():
            forward(probe.model, rows).logits_KV.float().square().mean().backward()
        probe.model.zero_grad()

    @torch.no_grad()
    def _logits(self, forward: Forward, samples: _Samples, *, training: bool = False) -> torch.Tensor:
        """Shape (K, V), float32, without the predictions that follow a last token."""
        row = moved(flatten(samples.rows), self.probe.device)
        self.probe.model.train(training)
        torch.manual_seed(0)  # equal rows get the same dropout
        return forward(self.probe.model, row).logits_KV.float()

    @staticmethod
    def _differs(one_KV: torch.Tensor, other_KV: torch.Tensor) -> float:
        finite = one_KV[one_KV.isfinite()]
        difference = (one_KV - other_KV).abs()
        difference[one_KV == other_KV] = 0.0  # infinities too
        return float(difference.max() / finite.std().clamp(min=1e-12)) if len(finite) > 1 else 0.0


@dataclass(frozen=True, slots=True)
class _Probe:
    """The copy that is checked instead of the model."""

    model: Any
    device: torch.device
    quantized: bool

    @contextmanager
    def attention(self, name: str) -> Generator[None]:
        """Use another attention implementation for the duration of the `with` block."""
        before = attention_of(self.model.config)
        if name:
            self.model.set_attn_implementation(name)
        try:
            yield
        finally:
            if name:
                self.model.set_attn_implementation(before)


@contextmanager
def _probe(model: Any, device: torch.device, samples: _Samples, where: str) -> Generator[_Probe]:
    """Copy a few layers of a model in float32; no random state is changed."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _whole_float32():
        if getattr(model, "is_quantized", False):
            was_training = model.training
            yield _Probe(model, device, quantized=True)
            model.train(was_training)
        else:
            yield _Probe(_copied(model, device, samples, where), device, quantized=False)


@contextmanager
def _whole_float32() -> Generator[None]:
    """Multiply and convolve in float32 as IEEE 754 defines it: TF32's 10 bits of mantissa would hide a leak."""
    backends: Any = torch.backends
    before = backends.fp32_precision
    backends.fp32_precision = "ieee"
    try:
        yield
    finally:
        backends.fp32_precision = before


def _copied(model: Any, device: torch.device, samples: _Samples, where: str) -> Any:
    """Copy a few layers, or all if the model needs them."""
    reason: BaseException | None = None
    for make in (_few_layers, copy.deepcopy):
        probe = make(model).float().to(device).eval()
        try:
            with torch.no_grad():
                probe(input_ids=torch.from_numpy(samples.short).to(device)[None], use_cache=False)
        except unusable() as error:
            reason = error
        else:
            return probe
    raise InvalidDataError(
        f"The model {where!r} ({type(model).__name__}) can't compute a single conversation: {reason}",
        hint="Choose a causal language model with text input only.",
        problems=[],
    ) from reason


def _few_layers(model: Any) -> Any:
    """Copy a model with as many of its first layers as hold one of each kind."""
    found = _layer_stack(model)
    if found is None:
        return copy.deepcopy(model)
    parent, name, stack = found
    kinds = [_kind(layer, _numbering(stack)) for layer in stack]
    count = max(kinds.index(kind) for kind in set(kinds)) + 1
    setattr(parent, name, torch.nn.ModuleList(list(stack)[:count]))
    try:
        return copy.deepcopy(model)
    finally:
        setattr(parent, name, stack)


def _layer_stack(model: Any) -> tuple[torch.nn.Module, str, torch.nn.ModuleList] | None:
    """Find the decoder's layers: the largest list of as many modules as the config counts layers."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    stacks = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList) and len(child) == count
    ]
    return max(stacks, key=lambda found: sum(p.numel() for p in found[2].parameters()), default=None)


def _numbering(stack: torch.nn.ModuleList) -> set[tuple[str, str]]:
    """Return the attributes of modules in layers that only hold the layer's number."""
    numbered = [
        {(path, name) for path, name, value in _settings(layer) if value == place and type(value) is int}
        for place, layer in enumerate(stack)
    ]
    return set.intersection(*numbered) if numbered else set()


def _kind(layer: torch.nn.Module, numbering: set[tuple[str, str]]) -> frozenset[Any]:
    """Return what layers of one kind share: their modules, the parameters' shapes and the settings."""
    modules = {(path, type(module).__name__) for path, module in layer.named_modules()}
    shapes = {(path, tuple(weight.shape)) for path, weight in layer.named_parameters()}
    settings = {found for found in _settings(layer) if found[:2] not in numbering}
    return frozenset(modules | shapes | settings)


def _settings(layer: torch.nn.Module) -> Iterator[tuple[str, str, Any]]:
    for path, module in layer.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, bool | int | float | str | None) and name != "training":
                yield path, name, value
