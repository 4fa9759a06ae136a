"""Stops a training whose loss, gradient norm or evaluation is not finite.

Losses and norms stay on their device until they are checked: on the CPU before each update, so that no weight is
damaged; on an accelerator, where a check costs a synchronisation, wherever one takes place anyway (a log, an
evaluation, a save, the end). No checkpoint is written before all numbers so far are checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.distributed.tensor import DTensor

from tuneyard.errors import DivergedError, Problem

_MOST_SKIPPED = 40
"""Updates that float16's loss scaling may skip in a row: it halves its scale each time, from 65,536."""

Places = Callable[[int, int | None], Sequence[str]]
"""Returns the rows of an optimizer step, counted from 0, or of one of its micro-batches on this process."""


class Finite:
    """Keeps the losses and norms of a training until they are checked.

    Args:
        places: Names the rows of a step.
        learning_rate: For the message.
        scaled: Whether losses are scaled (float16): norms that are not finite are then skipped by the optimizer.
    """

    def __init__(self, places: Places, *, learning_rate: float, scaled: bool) -> None:
        self._places = places
        self._learning_rate = learning_rate
        self._scaled = scaled
        self._kept: list[tuple[int, int | None, torch.Tensor]] = []
        self._skipped = 0

    def note_loss(self, step: int, loss: torch.Tensor) -> None:
        """Keep the loss of the next micro-batch of a step."""
        micro = sum(1 for kept, number, _ in self._kept if kept == step and number is not None)
        self._kept.append((step, micro, loss.detach()))

    def note_norm(self, step: int, norm: torch.Tensor | float) -> None:
        """Keep the norm of a step's gradients."""
        if not self._scaled:
            self._kept.append((step, None, _whole(torch.as_tensor(norm).detach())))

    def note_skipped(self, step: int, skipped: bool) -> None:
        """Count the updates that loss scaling has skipped in a row.

        Raises:
            DivergedError: More were skipped than a too large scale explains.
        """
        self._skipped = self._skipped + 1 if skipped else 0
        if self._skipped > _MOST_SKIPPED:
            raise self._diverged(step, None, "inf")

    def check(self) -> None:
        """Check everything kept so far.

        Raises:
            DivergedError: With the first step and the rows whose loss or gradient is not finite, or whose gradient is
                zero while its loss is not, so that nothing is learnt.
        """
        kept, self._kept = self._kept, []
        if not kept:
            return
        values = torch.stack([value.reshape(()).float().to(kept[0][2].device) for _, _, value in kept])
        places = [(step, micro) for step, micro, _ in kept]
        broken = _first(values.isfinite().logical_not())
        if broken is not None:
            raise self._diverged(*places[broken], f"{values[broken].item():g}")
        dead = [
            place for place, value in zip(places, values.tolist(), strict=True) if place[1] is None and value == 0.0
        ]
        for step, _ in dead:
            loss = sum(value for place, value in zip(places, values.tolist(), strict=True) if place[0] == step)
            if loss > 0:
                raise self._diverged(step, None, f"0 while its loss is {loss:g}")

    def check_weights(self, step: int, model: torch.nn.Module) -> None:
        """Check the trained weights before they are saved.

        Raises:
            DivergedError: One holds a number that is not finite.
        """
        for name, weight in model.named_parameters():
            if weight.requires_grad and not bool(_whole(weight.isfinite().all())):
                raise DivergedError(
                    f"The weight '{name}' is not finite after step {step}; training has stopped.",
                    hint=self._hint(step),
                    step=step,
                )

    def check_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Check the metrics of an evaluation.

        Raises:
            DivergedError: One is not finite.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"'{name}' is {value:g} after step {step}; training has stopped.",
                    hint=self._hint(step),
                    step=step,
                )

    def _diverged(self, step: int, micro: int | None, value: str) -> DivergedError:
        what = "norm of the gradients" if micro is None else "loss"
        rows = self._places(step, micro)
        return DivergedError(
            f"The {what} of step {step + 1} is {value}; training has stopped before its weights were published.",
            hint=self._hint(step),
            step=step + 1,
            problems=[Problem(row, f"is in the rows whose {what} is {value}") for row in rows],
        )

    def _hint(self, step: int) -> str:
        if step == 0:
            return "No weight has changed yet. Check these rows (tuneyard data check) and the base model."
        return (
            f"Lower training_args.learning_rate ({self._learning_rate:g}) or check these rows. The checkpoints before "
            "this step are kept; another learning rate needs another checkpointsRemote."
        )


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """Gather a tensor that processes hold shards of (FSDP); every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _first(flags: torch.Tensor) -> int | None:
    return int(flags.nonzero()[0]) if bool(flags.any()) else None
