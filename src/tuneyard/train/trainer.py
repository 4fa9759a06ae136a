"""Supervised finetuning: transformers' Trainer with planned steps, flat rows and stops at step boundaries.

What is overridden, and why:
- `get_train_dataloader`, `evaluation_loop`: micro-batches come from `StepPlan`, so N processes compute what one does;
- `compute_loss`: only trained positions get logits, and the sum is divided by the trained tokens of the whole step;
- `_save_checkpoint`: the stock Trainer loses the loss window between two logs and its running totals; they are saved
  beside the rest, and the folder is passed to `on_checkpoint` once every process has written its part;
- `_maybe_log_save_evaluate`: the one place after a step's log, evaluation and save, where SIGTERM may end training
  with consistent counters. The Trainer calls it a second time at the end of an epoch: that step is saved, and may be
  the last one, only then; otherwise a resume from it would never log or evaluate the epoch;
- `training_step`, `_get_grad_norm`: losses and norms are kept for `divergence`, which stops a training over them;
- `_run_epoch`: the stock Trainer takes one step too many when it resumes where `max_steps` broke off an epoch.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput

from tuneyard.network import IGNORED, EncodedRows, Form, RowForm, Scores, flatten
from tuneyard.train.divergence import Finite
from tuneyard.train.exchange import gather_bytes
from tuneyard.train.noise import EmbeddingNoise
from tuneyard.train.plan import StepPlan
from tuneyard.train.preferences import PairedRows
from tuneyard.train.private import logged_loss, loss_since_last_log, restore_losses

COUNTERS_FILE = "counters.json"
"""Beside the Trainer's own files in a checkpoint: what it would otherwise forget."""

REQUIRED_FILES = frozenset({"trainer_state.json", "optimizer.pt", "scheduler.pt", COUNTERS_FILE})
"""What a checkpoint must hold to be resumed from; random states are per process and named by their rank."""


class Stopped(Exception):  # noqa: N818 - the end of a process that was requested to stop, not an error
    """Raised out of `train` after SIGTERM, once the step it names is saved, and where another process has failed.

    Attributes:
        step: The last optimizer step that was done and saved.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class SFTTrainer(Trainer):
    """Train on conversations; see the module for what differs from `transformers.Trainer`.

    Args:
        model: A causal language model or a PEFT model around one.
        args: As transformers'; the batch sizes must already be resolved.
        rows: The conversations to train on.
        validation_rows: The conversations to evaluate on, or None.
        tokenizer: Saved with every checkpoint.
        total_batch_size: Conversations per optimizer step over all processes.
        row_form: How the conversations of a micro-batch go through this model.
        noise_alpha: Strength of the noise on embeddings (`noise`); None for none.
        stop_requested: Called after each step; training ends if it returns True in any process.
        still_publishing: Called repeatedly before the first step after a save is completed, until it returns False in
            every process: a kill then loses at most the steps between two saves.
        on_checkpoint: Called on the main process with each finished checkpoint's folder and step.
        callbacks: As transformers'.
    """

    collate = staticmethod(flatten)

    def __init__(
        self,
        model: torch.nn.Module,
        args: TrainingArguments,
        *,
        rows: EncodedRows | PairedRows,
        validation_rows: EncodedRows | PairedRows | None,
        tokenizer: PreTrainedTokenizerBase,
        total_batch_size: int,
        row_form: RowForm,
        noise_alpha: float | None,
        stop_requested: Callable[[], bool],
        still_publishing: Callable[[], bool],
        on_checkpoint: Callable[[Path, int], None],
        callbacks: list[TrainerCallback],
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=validation_rows,
            data_collator=self.collate,  # pyright: ignore[reportArgumentType] - any callable over a list of rows
            processing_class=tokenizer,
            callbacks=[*callbacks, _RestoreCounters(self), _AwaitCommit(self)],
        )
        self.model_accepts_loss_kwargs = True  # compute_loss takes num_items_in_batch itself
        assert args.output_dir is not None, "arguments.py sets it"
        self.output_dir = Path(args.output_dir)
        self.network = model  # never None, which Trainer.model may be
        self.rows = rows
        self.validation_rows = validation_rows
        self.total_batch_size = total_batch_size
        self.forward_rows = row_form.forward
        self.balance_weight = row_form.balance_weight
        self.noise = EmbeddingNoise(model, noise_alpha) if noise_alpha else None
        self.stop_requested = stop_requested
        self.still_publishing = still_publishing
        self.on_checkpoint = on_checkpoint
        self.earlier_seconds = 0.0
        self.started = time.monotonic()
        self.resumed_from: Path | None = None
        self.best_lost = False
        self.finite = Finite(self._places, learning_rate=self.args.learning_rate, scaled=self.args.fp16)
        self._saved_step = -1
        self._visited_step = -1
        self._postponing = self._postponed = False

    # ---- what a step holds ----

    def plan_training(self) -> StepPlan:
        """The micro-batches of this process."""
        return StepPlan(
            self.rows.lengths,
            total=self.total_batch_size,
            per_device=self.args.per_device_train_batch_size,
            accumulation=self.args.gradient_accumulation_steps,
            process=self.args.process_index,
            processes=self.args.world_size,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            order=self.args.train_sampling_strategy,  # pyright: ignore[reportArgumentType] - checked by values
            drop_last=self.args.dataloader_drop_last,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Load the planned micro-batches of this process."""
        return self._loader(self.rows, self.plan_training())

    def _places(self, step: int, micro: int | None) -> list[str]:
        """Name the rows of an optimizer step on this process, or of one of its micro-batches."""
        batches = self.plan_training().micro_batches(step)
        chosen = batches if micro is None else batches[micro : micro + 1]
        return [self.rows.place(index) for batch in chosen for index in batch]

    def _loader(self, rows: EncodedRows | PairedRows, plan: StepPlan) -> DataLoader[Any]:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            rows,
            batch_sampler=plan,  # pyright: ignore[reportArgumentType] - a sampler of lists is a batch sampler
            collate_fn=self.collate,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            # torch refuses it without workers, where it has no effect
            multiprocessing_context=self.args.dataloader_multiprocessing_context if workers else None,
        )

    # ---- loss ----

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute a micro-batch's loss and gradients as the stock Trainer does, and keep the loss for a check."""
        loss = super().training_step(*args, **kwargs)
        self.finite.note_loss(self.state.global_step, loss)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm: Any = super()._get_grad_norm(*args, **kwargs)
        self.finite.note_norm(self.state.global_step, norm)
        if self.args.device.type == "cpu":
            self.finite.check()
        return norm

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Divide the row's `summed_loss` by the items of the whole step.

        Args:
            model: The (wrapped) model.
            inputs: What `collate` made.
            return_outputs: Also return the model's scores of the row.
            num_items_in_batch: Items of the step over all processes; None for this row's own.

        Returns:
            The loss, scaled so that averaging gradients over processes gives the step's mean: that of the items and,
            where the model balances its experts, of their balance, each row's weighted by its items.
        """
        if self.noise is not None and self.forward_rows.form == Form.FLAT:
            self.noise.bounds = inputs["cu_seq_lens_q"]
        total, own, scores = self.summed_loss(model, inputs)
        if scores.balance is not None:
            total = total + self.balance_weight * scores.balance * own
        loss = self._scaled(total, own, num_items_in_batch)
        return (loss, scores) if return_outputs else loss

    def summed_loss(
        self, model: torch.nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor | int, Scores]:
        """Sum the losses of a row's items: the cross-entropy of its trained tokens.

        Args:
            model: The (wrapped) model.
            inputs: What `collate` made.

        Returns:
            The sum, the number of items, and the model's scores of them.
        """
        labels_K = inputs["labels"][0]
        scores = self.forward_rows(model, inputs)
        return self._cross_entropy(scores.logits_KV, labels_K), labels_K.ne(IGNORED).sum(), scores

    def _scaled(
        self, total: torch.Tensor, own: torch.Tensor | int, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Divide a row's summed loss by the items of the whole step, or by its own where those are not counted."""
        if num_items_in_batch is None:
            return total / torch.as_tensor(own).clamp(min=1)
        # Where the count is not taken over all processes, it is this one's own, as in the stock Trainer.
        shares = self.args.world_size if self.args.average_tokens_across_devices else 1
        return total / torch.as_tensor(num_items_in_batch).clamp(min=1) * shares

    def _cross_entropy(self, logits_KV: torch.Tensor, labels_K: torch.Tensor) -> torch.Tensor:
        if labels_K.eq(IGNORED).all():
            return logits_KV.float().sum() * 0.0  # an empty share still takes part in the gradient exchange
        smoothing = self.args.label_smoothing_factor if self.network.training else 0.0
        return cross_entropy(
            logits_KV.float(), labels_K, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Compute the means of `metrics_of` over all validation rows and processes."""
        del dataloader, description, prediction_loss_only, ignore_keys
        assert self.validation_rows is not None, "values refuse an evaluation without validation data"
        per_device, processes = self.args.per_device_eval_batch_size, self.args.world_size
        plan = StepPlan(
            self.validation_rows.lengths,
            total=per_device * processes,
            per_device=per_device,
            accumulation=1,
            process=self.args.process_index,
            processes=processes,
            order="sequential",
        )
        model = self.network
        model.eval()
        self._use_averages()
        sums: torch.Tensor | None = None
        for inputs in map(self._prepare_inputs, self._loader(self.validation_rows, plan)):
            with torch.no_grad(), self.accelerator.autocast():
                found = torch.tensor(self.evaluated(model, inputs), dtype=torch.float64)
            sums = found if sums is None else sums + found
        assert sums is not None, "values refuse an evaluation without validation data"
        metrics = self.metrics_of(self._sum_over_processes(sums).tolist(), metric_key_prefix)
        self.finite.check_metrics(self.state.global_step, metrics)
        return EvalLoopOutput(
            predictions=[],  # pyright: ignore[reportArgumentType] - only the loss is requested
            label_ids=None,
            metrics=metrics,
            num_samples=len(self.validation_rows),
        )

    def evaluated(self, model: torch.nn.Module, inputs: Mapping[str, Any]) -> list[float]:
        """Return the summed loss of a row, and the number of its trained tokens."""
        total, tokens, _ = self.summed_loss(model, inputs)
        return [total.item(), float(tokens)]

    def metrics_of(self, sums: list[float], prefix: str) -> dict[str, float]:
        """Name the means of the sums of `evaluated` over all rows and processes."""
        return {f"{prefix}_loss": sums[0] / max(sums[1], 1), f"{prefix}_tokens": int(sums[1])}

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return an empty loader for `evaluate` to pass on; `evaluation_loop` makes its own plan."""
        del eval_dataset
        return DataLoader([])  # pyright: ignore[reportArgumentType] - never iterated

    def _sum_over_processes(self, values: torch.Tensor) -> torch.Tensor:
        if self.args.world_size > 1:
            values = values.to(self.args.device if self.args.device.type == "cuda" else "cpu")
            dist.all_reduce(values)
        return values.cpu()

    # ---- saving and stopping ----

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        if self._postponing:
            self._postponed = True
            return
        self.finite.check()
        self.finite.check_weights(self.state.global_step, self.network)
        super()._save_checkpoint(model, trial)
        folder = self.output_dir / f"checkpoint-{self.state.global_step}"
        window = self._gathered_loss_window()
        self._gather_random_states(folder)
        if self.args.should_save:
            # The stock Trainer pickles its arguments: not needed to resume, and no pickle is ever published.
            (folder / "training_args.bin").unlink(missing_ok=True)
            self._write_counters(folder, window)
        if self.args.world_size > 1:
            dist.barrier()
        self._saved_step = self.state.global_step
        if self.args.should_save:
            self.on_checkpoint(folder, self.state.global_step)

    def gather(self) -> None:
        """Prepare, on every process, for a save by the main process alone."""
        self._use_averages()

    def _load_best_model(self) -> None:
        self._use_averages()  # otherwise they would be computed from the best model's weights
        super()._load_best_model()

    def _use_averages(self) -> None:
        """Set the weights to the averages that a schedule-free optimizer keeps, until the next step."""
        if callable(to_averages := getattr(self.optimizer, "eval", None)):
            to_averages()

    def save_final(self, folder: Path, types: Mapping[str, torch.dtype]) -> None:
        """Save the published files, on the main process alone and after `gather`.

        Args:
            folder: The target folder.
            types: The type of each weight by name, if it differs from the trained one.
        """
        if not types:
            self.save_model(str(folder))
            return
        state = {name: weight.to(types.get(name, weight.dtype)) for name, weight in self.whole_state().items()}
        self._save(str(folder), state_dict=state)

    def whole_state(self) -> dict[str, torch.Tensor]:
        """Return the weights of a model without an adapter, of tied ones the first."""
        tied: set[str] = set(getattr(self.network, "all_tied_weights_keys", None) or ())
        return {name: weight for name, weight in self.network.state_dict().items() if name not in tied}

    def _gathered_loss_window(self) -> list[float]:
        """The summed loss since the last log, of each process."""
        mine = loss_since_last_log(self)
        if self.args.world_size == 1:
            return [float(mine)]
        gathered = [torch.zeros_like(mine) for _ in range(self.args.world_size)]
        dist.all_gather(gathered, mine)
        return [float(part) for part in gathered]

    def _gather_random_states(self, folder: Path) -> None:
        """Copy the random states of other nodes' processes to the main process's folder, which is published."""
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.args.world_size))
        if self.args.world_size == here:
            return
        mine = folder / f"rng_state_{self.args.process_index}.pth"
        elsewhere = self.args.process_index >= here  # node 0 has the first ranks
        gathered = gather_bytes(mine.read_bytes() if elsewhere else b"")
        if elsewhere:
            mine.unlink()
        elif self.args.should_save:
            for process, state in enumerate(gathered):
                if state:
                    (folder / f"rng_state_{process}.pth").write_bytes(state)

    def _write_counters(self, folder: Path, window: list[float]) -> None:
        total_loss, last_logged_step = logged_loss(self)
        counters = {
            "loss_window": window,
            "total_loss": total_loss,
            "last_logged_step": last_logged_step,
            "seconds": self.seconds_trained(),
            "best_step": self.state.best_global_step,
            "evaluations_without_better": [each.early_stopping_patience_counter for each in self._early_stops()],
        }
        (folder / COUNTERS_FILE).write_text(json.dumps(counters), encoding="utf-8")

    def restore_counters(self, folder: Path) -> None:
        """Restore the counters of a checkpoint.

        Args:
            folder: The checkpoint's folder.
        """
        counters = json.loads((folder / COUNTERS_FILE).read_text(encoding="utf-8"))
        window = counters["loss_window"]
        if len(window) == self.args.world_size:
            mine = window[self.args.process_index]
        else:  # another number of processes: every process carries the mean, so the next log's mean is right
            mine = math.fsum(window) / len(window)
        logged, last = counters["total_loss"], counters["last_logged_step"]
        restore_losses(self, since_last_log=mine, logged=logged, last_logged_step=last)
        self.earlier_seconds = counters["seconds"]
        if self.best_lost:  # its checkpoint is damaged: the next evaluation becomes the best one
            self.state.best_metric = self.state.best_global_step = self.state.best_model_checkpoint = None
        waited = [] if self.best_lost else counters.get("evaluations_without_better", [])
        for callback, count in zip(self._early_stops(), waited, strict=False):
            callback.early_stopping_patience_counter = count
            if count >= callback.early_stopping_patience:  # training had ended, and was killed before it was published
                self.control.should_training_stop = True

    def _early_stops(self) -> list[EarlyStoppingCallback]:
        return [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]

    def seconds_trained(self) -> float:
        """Seconds spent in `train` by this attempt and those it resumes from."""
        return self.earlier_seconds + time.monotonic() - self.started

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.finite.note_skipped(self.state.global_step - 1, self.accelerator.optimizer_step_was_skipped)
        control = self.control
        ends = self.state.global_step >= self.state.max_steps or control.should_training_stop
        if control.should_log or control.should_evaluate or control.should_save or ends:
            self.finite.check()
        step, epoch = self.state.global_step, float(self.state.epoch or 0.0)
        if (epoch.is_integer() or step >= self.state.max_steps) and self._visited_step != step:
            self._visited_step, self._postponing = step, True
            super()._maybe_log_save_evaluate(*args, **kwargs)
            self._postponing = False
            return
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if self._postponed and self._saved_step != step:
            self._save_checkpoint(self.network)
        self._postponed = False
        ending = self.state.global_step >= self.state.max_steps or self.control.should_training_stop
        if not self._any_process(self.stop_requested) or ending:
            return
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(self.network)
        raise Stopped(self.state.global_step)

    def _run_epoch(self, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - called by name
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(**kwargs)
        else:
            self.control.should_training_stop = True

    def await_commit(self) -> None:
        """Wait, right after a save and on all processes together, until it is published.

        Together and in short turns, since a collective that waits for the main process has a timeout.
        """
        if self._saved_step == self.state.global_step:
            while self._any_process(self.still_publishing):
                pass

    def _any_process(self, condition: Callable[[], bool]) -> bool:
        failure: Exception | None = None
        try:
            answer = float(condition())
        except Exception as error:  # the others have to learn of it before this process ends
            failure, answer = error, math.inf
        total = self._sum_over_processes(torch.tensor([answer], dtype=torch.float64)).item()
        if failure:
            raise failure
        if math.isinf(total):
            raise Stopped(self.state.global_step)
        return bool(total)


class _RestoreCounters(TrainerCallback):
    """Restores the counters right after the Trainer has reset them."""

    def __init__(self, trainer: SFTTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Restore the counters of the checkpoint that training resumes from, if any."""
        self.trainer.started = time.monotonic()
        if self.trainer.resumed_from is not None:
            # The saved state has the cadence of its attempt; the one configured now applies.
            self.trainer.state.compute_steps(self.trainer.args, self.trainer.state.max_steps)
            self.trainer.restore_counters(self.trainer.resumed_from)


class _AwaitCommit(TrainerCallback):
    """Lets a step's forward and backward run while a save is published, and holds the weights until it is."""

    def __init__(self, trainer: SFTTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the save of the step before, if there is one."""
        self.trainer.await_commit()
