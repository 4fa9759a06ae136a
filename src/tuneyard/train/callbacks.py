"""What a training process reports while it runs: rows of metrics, and its progress.

`metrics.jsonl` is the source of every table and plot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuneyard.progress import LINE_EVERY_SECONDS, Show
from tuneyard.train.progress_file import write_progress

Metrics = dict[str, Any]

logger = logging.getLogger(__name__)


class ProgressReporter(TrainerCallback):
    """Reports metrics and progress from the main process; `show` may be set to a function that draws a bar.

    Args:
        workdir: Where `progress.json` goes.
        append: Called with each row of metrics.
        seconds_trained: Seconds of training over all attempts so far.
        tokens_per_epoch: Trained tokens of one epoch, for the tokens seen.
    """

    def __init__(
        self,
        workdir: Path,
        append: Callable[[Metrics], None],
        *,
        seconds_trained: Callable[[], float],
        tokens_per_epoch: int,
    ) -> None:
        self.workdir = workdir
        self.append = append
        self.seconds_trained = seconds_trained
        self.tokens_per_epoch = tokens_per_epoch
        self.show: Show = _show_nothing
        self.loss: float | None = None
        self.first_step = 0
        self.first_time = 0.0
        self.last_line = 0.0
        self.logged_loss = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock that the remaining time is estimated from."""
        self.first_step, self.first_time = state.global_step, time.monotonic()
        if state.is_world_process_zero:
            write_progress(self.workdir, phase="training", step=state.global_step, max_steps=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Metrics | None = None,
        **_: Any,
    ) -> None:
        """Append a row, of kind `train`, `eval` or `summary`."""
        if not state.is_world_process_zero or not logs:
            return
        kind = "train" if "loss" in logs else "summary" if "train_loss" in logs else "eval"
        self.loss = logs.get("loss", self.loss)
        self.append(
            {
                "kind": kind,
                "step": state.global_step,
                "max_steps": state.max_steps,
                "tokens": round((state.epoch or 0.0) * self.tokens_per_epoch),
                "seconds": round(self.seconds_trained(), 3),
                "time": time.time(),
                **logs,
            }
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Report the step, the last loss and the seconds left."""
        if not state.is_world_process_zero:
            return
        done, now = state.global_step - self.first_step, time.monotonic()
        per_step = (now - self.first_time) / max(done, 1)
        left = per_step * (state.max_steps - state.global_step)
        facts = {"step": state.global_step, "max_steps": state.max_steps, "loss": self.loss, "seconds_left": left}
        write_progress(self.workdir, phase="training", seconds_per_step=per_step, **facts)
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        rate = f"{per_step:.2f} s/step" if per_step >= 1 else f"{1 / per_step:.1f} steps/s"
        text = f"step {state.global_step} of {state.max_steps}{loss}, {rate}, {left:.0f} s left"
        self.show(state.global_step, state.max_steps, text)
        is_first_loss = self.loss is not None and not self.logged_loss
        if now - self.last_line >= LINE_EVERY_SECONDS or is_first_loss or state.global_step == state.max_steps:
            self.last_line, self.logged_loss = now, self.loss is not None
            logger.info("Training: %s.", text)


def _show_nothing(done: float, total: float, text: str) -> None:
    del done, total, text
