"""The model that a run trains, without its weights: transformers' own on torch's meta device, with PEFT's own adapter.

Only the headers of the delivered files are read. Loading, adapting and refusing are the functions that training calls
too, so that nothing is counted here that training does differently. torch is loaded when a model is built.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.delivery import vet_model
from tuneyard.interpreter import faster_imports
from tuneyard.job import Precision, precision_of
from tuneyard.models import INDEX, Tensor, incomplete, structure_problems, write_outline
from tuneyard.store import Manifest, Store
from tuneyard.values import FinetuneValues

if TYPE_CHECKING:
    import torch

_ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4}


@dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        model: The base model, or a PEFT model around it, on the meta device.
        base: The base model in it.
        base_parameters: Parameters of the base, a shared matrix counted once.
        parameters: Those and the adapter's.
        trained: Those that are trained.
        shapes: Shapes of the trained ones.
        trained_bytes: What the trained ones take.
        bytes: What all take, and the buffers.
        precision: The types of weights and steps.
        remapped_bytes: Bytes of weights that the files hold in another layout than the model.
        notes: Warnings of the libraries.
    """

    model: Any
    base: Any
    base_parameters: int
    parameters: int
    trained: int
    shapes: Sequence[tuple[int, ...]]
    trained_bytes: int
    bytes: int
    precision: Precision
    remapped_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def largest(self) -> int:
        """Elements of the largest trained tensor."""
        return max(math.prod(shape) for shape in self.shapes)


def build_network(
    values: FinetuneValues, store: Store, manifest: Manifest, settings: Path, scratch: Path, *, here: bool = True
) -> Network:
    """Build what is trained, on the meta device.

    Args:
        values: The resolved values.
        store: The store of the base model.
        manifest: Its manifest.
        settings: A folder with its files except the weights.
        scratch: An empty folder for its outline.
        here: Whether it would be trained in this environment; see `rehearse`.

    Raises:
        IncompleteModelError: Its files lack a weight, hold one that it hasn't, or one of another shape.
        InvalidDataError: Its settings require code, or it is no model that transformers can load.
        InvalidValuesError: The adapter's targets match nothing, or a library refuses a value.
        NotFoundError: torch and transformers are not installed.
    """
    key = values.basemodel.strip("/")
    vet_model(settings, [entry.path for entry in manifest.files], where=values.basemodel)
    sizes = {entry.path: entry.size for entry in manifest.files}
    tensors = write_outline(sizes, lambda path: store.read(f"{key}/{path}"), scratch, where=values.basemodel)
    if problems := structure_problems(tensors, _settings(scratch / INDEX), _settings(scratch / "config.json") or {}):
        raise incomplete(values.basemodel, problems)
    with faster_imports():
        from tuneyard.network import add_adapter, configured_outline, hold_trained_in, quiet_libraries, rehearse

    quiet_libraries()
    config = values.finetuning_config
    device = "cuda" if values.gpuResource else "cpu"
    rehearse(values, settings, device, here=here)
    load = partial(configured_outline, values, scratch)
    base: Any = load()
    stored = _name(base.dtype)
    precision = precision_of(values, stored, device)
    adapts = config.peft_conf.peft_type != "NO_PEFT"
    held = precision.frozen if adapts else precision.trained
    if held != stored:
        base = load(dtype=held)
    names = {name.removeprefix(prefix) for name in base.state_dict() for prefix in ("", f"{base.base_model_prefix}.")}
    parameters = sum(weight.numel() for weight in base.parameters())
    model: torch.nn.Module = base
    checkpointing = config.training_args.gradient_checkpointing
    if checkpointing:
        base.gradient_checkpointing_enable(config.training_args.gradient_checkpointing_kwargs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if adapts:
            model = add_adapter(base, config.peft_conf, settings, gradient_checkpointing=checkpointing)
            hold_trained_in(model, precision.trained)
    notes = dict.fromkeys((str(warning.message).strip().splitlines() or [""])[0] for warning in caught)
    remapped = 0 if held != stored else _remapped(tensors, names)
    return replace(
        _counted(model, base, precision), base_parameters=parameters, remapped_bytes=remapped, notes=(*notes,)
    )


def _settings(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_bytes()) if path.exists() else None


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _counted(model: Any, base: Any, precision: Precision) -> Network:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    held = [*model.parameters(), *model.buffers()]
    parameters = sum(weight.numel() for weight in model.parameters())
    return Network(
        model=model,
        base=base,
        base_parameters=parameters,
        parameters=parameters,
        trained=sum(weight.numel() for weight in trained),
        shapes=[tuple(weight.shape) for weight in trained],
        trained_bytes=sum(weight.numel() * weight.element_size() for weight in trained),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in held),
        precision=precision,
    )


def _remapped(tensors: Mapping[str, Mapping[str, Tensor]], names: set[str]) -> int:
    """Bytes of tensors that are copied when they are loaded: experts that are merged, for instance.

    What is not copied is a view into the file's pages, which keeps all of them in memory.
    """
    return sum(
        math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 1)
        for file in tensors.values()
        for name, tensor in file.items()
        if name not in names
    )
