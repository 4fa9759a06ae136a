"""One training process: claim the run, resume from its newest checkpoint, train, publish.

Only the main process (rank 0) claims the run and publishes; the others wait for it where it decides something for all.
With several nodes the first process of each other node fetches the checkpoint that the main process resumes from.
`train.process` calls it in each of several processes, `train.__main__` directly where there is one.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import transformers
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from tuneyard.checkpoints import (
    EVENTS_FOLDER,
    METRICS_FILE,
    Attempt,
    CheckpointRef,
    EventFiles,
    MetricsLog,
    Publisher,
    RetentionPolicy,
)
from tuneyard.errors import TERMINATED, NotFoundError, UnavailableError
from tuneyard.job import encoder_of, experiment_of, shards
from tuneyard.models import reason_of
from tuneyard.network import count_parameters, name_base, quiet_libraries
from tuneyard.progress import moving_bar, progress_bar
from tuneyard.store import Manifest, Store
from tuneyard.train.arguments import CHECKPOINTS, training_arguments
from tuneyard.train.assembly import assemble, for_all
from tuneyard.train.callbacks import Metrics, ProgressReporter
from tuneyard.train.dpo import DPOTrainer
from tuneyard.train.events import how_to_view, write_events
from tuneyard.train.exchange import gather
from tuneyard.train.final import MERGE_STOPPED, publish_final, publish_merged, set_generation, write_final
from tuneyard.train.merge import MergeStopped
from tuneyard.train.prepare import Prepared
from tuneyard.train.progress_file import write_progress
from tuneyard.train.sharded import ShardedTrainer
from tuneyard.train.signals import StopRequest
from tuneyard.train.tracking import guard_trackers
from tuneyard.train.trainer import REQUIRED_FILES, SFTTrainer, Stopped
from tuneyard.values import EarlyStopping, FinetuneValues

_TURN_SECONDS = 0.25
_LOG_AFTER_SECONDS = 5.0

FLUSH_SECONDS = 600.0
"""How long the end of a process waits for its last checkpoint to be published."""

logger = logging.getLogger(__name__)


def work(values: FinetuneValues, store: Store, workdir: Path, stop: StopRequest) -> int:
    """Train as one of the processes that the environment describes.

    Args:
        values: The resolved values.
        store: The store of the run.
        workdir: The process's folder, with the result of `prepare`; becomes the current folder.
        stop: Called after each step; returns whether to end.

    Returns:
        0 when the run is finished and published, 143 when it was stopped and its last step is saved and published.

    Raises:
        IntegrityError: If there are checkpoints but none verifies.
        ConflictError: If another attempt has claimed the run.
    """
    try:
        return _work(values, store, workdir, stop)
    except RuntimeError as error:
        if _nodes() > 1 and _lost_peer(error):
            raise UnavailableError(
                f"The connection to another node was lost: {reason_of(error).rstrip('.')}.",
                hint="See the supervising process's log for the node that was lost.",
            ) from error
        raise


def _work(values: FinetuneValues, store: Store, workdir: Path, stop: StopRequest) -> int:
    prepared = Prepared.read(workdir)
    os.chdir(workdir)
    quiet_libraries()
    arguments = training_arguments(values, prepared)
    run = _Run(values, prepared, store, workdir, main=arguments.process_index == 0)
    try:
        with ExitStack() as stack:
            begun = for_all(arguments, (lambda: asdict(run.begin())) if run.main else None)
            start = _Start(**begun) if begun is not None else None
            if start is None or not _all_have(arguments, start, run.follow):
                return TERMINATED  # the process that failed to begin reports why
            if run.main:
                stack.enter_context(run.publish_in_background())
            trainer = run.trainer(arguments, stop, start)
            return TERMINATED if trainer is None else run.train(trainer, start, stop)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _nodes() -> int:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes))


def _lost_peer(error: RuntimeError) -> bool:
    """Whether a collective has lost another process; gloo reports that by a message only."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


@dataclass(frozen=True)
class _Start:
    """Where training resumes from: a checkpoint's folder or an empty string, and whether its best one is lost.

    `step` and `attempt` name the checkpoint for nodes that have to fetch it themselves.
    """

    folder: str
    best_lost: bool
    step: int = 0
    attempt: int = 0


class _Run:
    """One process's view of the run; `attempt`, `metrics`, `events` and `publisher` are the main process's alone."""

    def __init__(self, values: FinetuneValues, prepared: Prepared, store: Store, workdir: Path, *, main: bool) -> None:
        self.values = values
        self.prepared = prepared
        self.store = store
        self.workdir = workdir
        self.main = main
        required = REQUIRED_FILES | frozenset({"rng_state*.pth", METRICS_FILE})
        self.experiment = experiment_of(values, store, required=required)
        self.attempt: Attempt
        self.metrics: MetricsLog
        self.events: EventFiles
        self.publisher: Publisher
        self.progress: ProgressReporter
        self.published: set[Path] = set()
        self.tidying = threading.Lock()
        self.best_step: int | None = None
        self.published_types: Mapping[str, torch.dtype] = {}

    # ---- begin ----

    def begin(self) -> _Start:
        """Claim the run and restore its newest checkpoint."""
        write_progress(self.workdir, phase="restoring")
        resume = self.values.finetuning_config.run_conf.resume_from_checkpoint
        record = self.prepared.inputs.record(self.values)
        self.attempt = self.experiment.claim(record, resume=resume is not False, on_damage=logger.warning)
        restored = None
        if resume is not False:
            with progress_bar("Looking for checkpoints", None, "bytes") as advance:
                restored = self.experiment.restore(Path(CHECKPOINTS), on_damage=logger.warning, advance=advance)
        if restored is None and resume is True:
            raise NotFoundError(
                f"'{self.experiment.prefix}' has no checkpoint to resume from, but resume_from_checkpoint is true.",
                hint="Use --set finetuning_config.run_conf.resume_from_checkpoint=auto to start at step 0 without one.",
            )
        self.attempt.begin(restored.ref if restored else None)
        _delete_others(Path(CHECKPOINTS), keep={restored.path, restored.best} if restored else set())
        step = restored.ref.step if restored else 0
        rows = self.experiment.rows_of(restored, on_damage=logger.warning) if restored else b""
        self.metrics = MetricsLog(self.workdir / METRICS_FILE, rows=rows, up_to_step=step)
        self.events = EventFiles(self.workdir / EVENTS_FOLDER, self.attempt.number)
        logger.info(
            f"Attempt {self.attempt.number}: " + (f"resuming from step {step}." if restored else "starting at step 0.")
        )
        if restored is None:
            return _Start("", best_lost=False)
        return _Start(
            str(restored.path),
            best_lost=bool(restored.manifest.about["best"]) and restored.best is None,
            step=restored.ref.step,
            attempt=restored.ref.attempt,
        )

    def follow(self, start: _Start) -> None:
        """Fetch, on another node, the checkpoint that the main process resumes from."""
        kept: set[Path | None] = set()
        if start.folder:
            ref = CheckpointRef.at(self.experiment.prefix, start.step, start.attempt)
            with progress_bar("Fetching the checkpoint", None, "bytes") as advance:
                kept = {self.experiment.fetch(ref, Path(CHECKPOINTS), advance=advance)}
        _delete_others(Path(CHECKPOINTS), keep=kept)

    def publish_in_background(self) -> Publisher:
        """Make the publisher; its block ends when everything is published."""
        limit = self.values.finetuning_config.training_args.save_total_limit
        self.publisher = Publisher(
            self.attempt,
            retention=RetentionPolicy(keep=limit),
            metrics=self.metrics,
            events=self.events,
            on_published=lambda folder, ref: self._tidy(folder),
        )
        return self.publisher

    def _tidy(self, folder: Path) -> None:
        """Delete local checkpoints that are published, but for the newest and the best.

        Called in the publisher's thread, and in the trainer's where a newer checkpoint took one's place.
        """
        with self.tidying:
            self.published.add(folder)
            newest = max(self.published, key=_step_of)
            for old in self.published - {newest}:
                if _step_of(old) != self.best_step:
                    shutil.rmtree(old, ignore_errors=True)
                    self.published.discard(old)

    # ---- train ----

    def trainer(self, arguments: TrainingArguments, stop: StopRequest, start: _Start) -> SFTTrainer | None:
        """Load model and data and build the trainer; return None if another process found that it can't be built."""
        config = self.values.finetuning_config
        if self.main:
            write_progress(self.workdir, phase="loading")
        notify = logger.info if self.main else logger.debug
        built = assemble(self.values, self.prepared, arguments, main=self.main, notify=notify)
        if built is None:
            return None
        model, rows = built.model, built.rows
        self.published_types = built.published_types
        self.progress = ProgressReporter(
            self.workdir,
            self._append,
            seconds_trained=lambda: trainer.seconds_trained(),
            tokens_per_epoch=rows.trained_tokens,
        )
        trainer = self._kind()(
            model,
            arguments,
            rows=rows,
            validation_rows=built.validation,
            tokenizer=encoder_of(self.values, Path(self.prepared.base_folder)).tokenizer,
            total_batch_size=self.prepared.total,
            row_form=built.form,
            noise_alpha=config.training_args.neftune_noise_alpha,
            stop_requested=self._ending(stop),
            still_publishing=self._publishing(),
            on_checkpoint=self._checkpoint(lambda: trainer),
            callbacks=[self.progress, *_early_stopping(config.early_stopping)],
        )
        if isinstance(trainer, DPOTrainer):
            trainer.dpo = config.preference_args
        trainer.remove_callback(PrinterCallback)
        if self.main and write_events(trainer, self.events, start.step):
            logger.info(how_to_view(self.store, self.experiment.prefix, self.workdir))
        guard_trackers(trainer, notify)
        if start.folder:
            trainer.resumed_from = Path(start.folder)
            trainer.best_lost = start.best_lost
        whole, trained = count_parameters(model)
        what = "preferences" if config.method == "dpo" else "conversations"
        notify(f"{len(rows)} {what}, {trained:,} of {whole:,} parameters trained, on {arguments.device}.")
        return trainer

    def _kind(self) -> type[SFTTrainer]:
        if self.values.finetuning_config.method == "dpo":
            return DPOTrainer
        return SFTTrainer if shards(self.values) is None else ShardedTrainer

    def _ending(self, stop: StopRequest) -> Callable[[], bool]:
        """Return the check after each step; in the main process it also raises errors of publishing."""

        def stopping() -> bool:
            if self.main:
                self.publisher.check()
            return stop()

        return stopping

    def _publishing(self) -> Callable[[], bool]:
        """Return the check before the step after a save is completed: whether that save is not committed yet."""
        began: float | None = None

        def publishing() -> bool:
            nonlocal began
            if not self.main or self.publisher.await_commit(timeout_seconds=_TURN_SECONDS):
                began = None
                return False
            now = time.monotonic()
            if began is None:
                began = now
            elif now - began >= _LOG_AFTER_SECONDS:
                began = math.inf
                logger.info(
                    "Waiting for the last checkpoint to be published, so that a kill loses at most one save interval."
                )
            return True

        return publishing

    def _append(self, row: Metrics) -> None:
        if row["kind"] != "summary":  # written once, at the very end
            self.metrics.append(row)
            self.publisher.metrics_changed()

    def _checkpoint(self, trainer: Callable[[], SFTTrainer]) -> Callable[[Path, int], None]:
        def submit(folder: Path, step: int) -> None:
            name_base(folder, self.prepared.inputs.base.key)
            (folder / METRICS_FILE).write_bytes(self.metrics.snapshot())
            best = trainer().state.best_model_checkpoint
            self.best_step = _step_of(Path(best)) if best else None
            self.publisher.submit(folder, step, {"best": self.best_step})

        return submit

    def train(self, trainer: SFTTrainer, start: _Start, stop: StopRequest) -> int:
        """Train to the end or to a stop, and publish the result."""
        try:
            with moving_bar() if self.main else nullcontext(self.progress.show) as self.progress.show:
                result = trainer.train(resume_from_checkpoint=start.folder or None)
        except Stopped as stopped:
            if self.main:
                write_progress(self.workdir, phase="stopping", step=stopped.step, max_steps=trainer.state.max_steps)
                self.publisher.flush(timeout_seconds=FLUSH_SECONDS)
                logger.info(f"Stopped after step {stopped.step}: it is saved. Launch the run again to resume from it.")
            return TERMINATED
        trainer.gather()
        if self.main:
            final, manifest = self._finish(trainer, result.training_loss)
            if self.values.mergeAdapter and not self._merge(final, manifest, stop):
                return TERMINATED
            step, last = trainer.state.global_step, trainer.state.max_steps
            write_progress(self.workdir, phase="finished", step=step, max_steps=last)
        return 0

    # ---- finish ----

    def _finish(self, trainer: SFTTrainer, train_loss: float) -> tuple[Path, Manifest]:
        """Publish the result of the training, and return its folder and manifest."""
        write_progress(self.workdir, phase="publishing", step=trainer.state.global_step)
        self.publisher.flush(timeout_seconds=FLUSH_SECONDS)
        last_evaluation = [row["eval_loss"] for row in self.metrics.rows() if row["kind"] == "eval"]
        summary = {
            "kind": "summary",
            "step": trainer.state.global_step,
            "max_steps": trainer.state.max_steps,
            "epoch": trainer.state.epoch or 0.0,
            "train_loss": train_loss,
            "eval_loss": last_evaluation[-1] if last_evaluation else None,
            "seconds": round(trainer.seconds_trained(), 3),
        }
        if not any(row["kind"] == "summary" for row in self.metrics.rows()):
            self.metrics.append(summary)
        final = self.workdir / "final"
        shutil.rmtree(final, ignore_errors=True)
        trainer.save_final(final, self.published_types)
        tokenizer = trainer.processing_class
        assert isinstance(tokenizer, transformers.PreTrainedTokenizerBase)
        write_final(final, self.values, self.prepared, self.metrics.rows(), summary)
        set_generation(tokenizer, final)
        self._publish_reports(final)
        manifest = publish_final(self.attempt, final, self.values, self.prepared)
        logger.info(f"Finished: '{self.experiment.prefix}/checkpoint-final', mean training loss {train_loss:.4f}.")
        return final, manifest

    def _merge(self, final: Path, manifest: Manifest, stop: StopRequest) -> bool:
        """Publish the merged model too; return False if that was stopped."""
        try:
            publish_merged(self.attempt, final, manifest, self.workdir, self.values, self.prepared, stop)
        except MergeStopped:
            logger.info(MERGE_STOPPED)
            return False
        return True

    def _publish_reports(self, final: Path) -> None:
        self.publisher.flush(timeout_seconds=FLUSH_SECONDS)
        for name in ("loss.svg", "loss.png"):
            if (final / name).exists():
                self.store.put(f"{self.experiment.prefix}/{name}", (final / name).read_bytes())


def _early_stopping(config: EarlyStopping | None) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(**config.model_dump())] if config else []


def _all_have(arguments: TrainingArguments, start: _Start, follow: Callable[[_Start], None]) -> bool:
    """Let the first process of each other node fetch the checkpoint; return False if another one could not."""
    if _nodes() == 1:
        return True
    failed = True
    try:
        if arguments.process_index > 0 and arguments.local_process_index == 0:
            follow(start)
        failed = False
    finally:
        failures = gather(failed)
    return not any(failures)


def _delete_others(folder: Path, keep: Set[Path | None]) -> None:
    """Delete what an earlier attempt left here: it may not be committed, and the Trainer would take it for its own."""
    for path in folder.glob("checkpoint-*"):
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _step_of(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])
