"""The types that weights are held and steps are computed in. Loads no torch, since `estimate` uses it too.

A bfloat16 weight has 8 bits of mantissa: a step of less than 1/256 of it is rounded away, so most weights of a model
trained in bfloat16 never move. Weights that are trained are therefore float32 and computed with under autocast (mixed
precision, arxiv.org/abs/1710.03740, section 3.1), unless `run_conf.trained_weights` overrides it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tuneyard.device import Device
from tuneyard.values import FinetuneValues

FLOAT32 = "float32"
_HALVES = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Precision:
    """Types by torch's names.

    Attributes:
        frozen: Of weights that are not trained, and of what is published.
        trained: Of weights that are trained, their gradients and the optimizer's states.
        autocast: The type that steps are computed in, if it is not the weights' own; None for no autocast.
    """

    frozen: str
    trained: str
    autocast: str | None

    @property
    def notice(self) -> str:
        """One line if weights are trained in another type than configured; empty otherwise."""
        if self.trained == self.frozen:
            return ""
        return (
            f"trained weights are {self.trained} and computed in {self.autocast or self.trained}, since {self.frozen} "
            f"would round most updates away; the published weights are {self.frozen}"
        )


def precision_of(values: FinetuneValues, stored: str, device: Device) -> Precision:
    """Decide the types that a run is computed in.

    Args:
        values: The resolved values.
        stored: The type that the base model is stored in, by torch's name.
        device: The device of the training; float16 is computed on accelerators alone.
    """
    config = values.finetuning_config
    dtype = config.run_conf.model_args.get("dtype")
    frozen = stored if dtype in (None, "auto") else str(dtype)
    keeps = config.run_conf.trained_weights == "as-loaded"
    trained = frozen if keeps or frozen not in _HALVES else FLOAT32
    args = config.training_args
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    if autocast is None and trained != frozen and _reach_other_weights(values):
        autocast = "bfloat16" if device == "cpu" else frozen
    return Precision(frozen, trained, autocast)


def _reach_other_weights(values: FinetuneValues) -> bool:
    """Return whether trained weights are outside an adapter's own layers, which cast their inputs."""
    conf = values.finetuning_config.peft_conf
    outside = conf.peft_kwargs.get("bias", "none") != "none" or any(
        conf.peft_kwargs.get(name) for name in ("modules_to_save", "trainable_token_indices")
    )
    return conf.peft_type == "NO_PEFT" or outside
