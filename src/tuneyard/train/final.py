"""Publishes a finished training for serving: weights, tokenizer, card, plot, and the merged model if configured."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuneyard.checkpoints import Attempt
from tuneyard.delivery import vet_model
from tuneyard.errors import IntegrityError
from tuneyard.job import experiment_of, precision_of, run_name
from tuneyard.network import EncodedRows, Row, changed_entries, name_base
from tuneyard.progress import progress_bar
from tuneyard.store import MANIFEST, Manifest, Store, pull
from tuneyard.train.agreement import Text
from tuneyard.train.merge import merge_adapter
from tuneyard.train.prepare import Prepared
from tuneyard.train.progress_file import write_progress
from tuneyard.train.report import merged_card, model_card, plot_loss
from tuneyard.train.signals import never
from tuneyard.values import FinetuneValues
from tuneyard.whereabouts import command

MERGE_STOPPED = "Stopped while merging: the adapter is published. Launch the run again to merge it."
MERGE_TEXTS = 8
MERGE_PROMPTS = 4
TEXT_TOKENS = 128
COMPARED_TOKENS = 64
"""How much of how many held-out texts adapter and merged model are compared on. Logits are kept for the compared
tokens: 8 x 64 of a vocabulary of 128,000 are 250 MiB."""

logger = logging.getLogger(__name__)


def write_final(
    folder: Path,
    values: FinetuneValues,
    prepared: Prepared,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    """Complete the folder that the trainer saved its model and tokenizer to.

    Args:
        folder: With the weights or the adapter.
        values: The resolved values.
        prepared: What went in.
        rows: The run's metrics.
        summary: The last row: `step`, `epoch`, `train_loss`, `seconds`, `eval_loss` or None.
    """
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing needs it
    name_base(folder, prepared.inputs.base.key)
    generation = Path(prepared.base_folder) / "generation_config.json"
    if generation.exists():
        shutil.copy(generation, folder)
    precision = precision_of(values, prepared.stored_dtype, prepared.device)
    _describe_as_base(Path(prepared.base_folder), folder, precision.frozen)
    config = values.finetuning_config
    trained = EncodedRows(Path(prepared.rows_folder))
    facts = {
        "run": run_name(values),
        "base": prepared.inputs.base.key,
        "base_content_sha256": prepared.inputs.base.content_sha256,
        "method": config.method,
        "peft_type": config.peft_conf.peft_type,
        "datasets": {entry.key: entry.content_sha256 for entry in prepared.inputs.datasets},
        "rows": len(trained) // (2 if config.method == "dpo" else 1),
        "trained_tokens": trained.trained_tokens,
        "steps": summary["step"],
        "epochs": summary["epoch"],
        "total_batch_size": prepared.total,
        "learning_rate": config.training_args.learning_rate,
        "train_loss": summary["train_loss"],
        "eval_loss": summary.get("eval_loss"),
        "seconds": summary["seconds"],
        "chat_template": config.data_conf.chat_template_name,
        "config": changed_entries(values, Path(prepared.base_folder)),
        "versions": prepared.inputs.versions,
    }
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    per = "preference" if config.method == "dpo" else "trained token"
    plot_loss(rows, folder, title=run_name(values), per=per)


def set_generation(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Add the tokenizer's stop token to the generation settings that are saved with the weights.

    A named chat template may end answers with another token than the base's settings know of.

    Args:
        tokenizer: The tokenizer as trained with.
        folder: The final folder, with or without `generation_config.json`.
    """
    path = folder / "generation_config.json"
    # As plain JSON: transformers refuses to write settings that many published models have.
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = settings.get("eos_token_id")
    stops = list(known) if isinstance(known, list) else [] if known is None else [known]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops:
        settings["eos_token_id"] = [*stops, tokenizer.eos_token_id]
        path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _describe_as_base(base: Path, folder: Path, dtype: str) -> None:
    """Write the weights' type and the base's key-value cache to config.json: the cache is off in training only."""
    path = folder / "config.json"
    if path.exists():
        cached = json.loads((base / path.name).read_text(encoding="utf-8")).get("use_cache", True)
        config = {**json.loads(path.read_text(encoding="utf-8")), "use_cache": cached, "dtype": dtype}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def publish_final(
    attempt: Attempt, folder: Path, values: FinetuneValues, prepared: Prepared, merged: Mapping[str, Any] | None = None
) -> Manifest:
    """Publish a final folder with its manifest.

    Args:
        attempt: The attempt that owns the run.
        folder: The finished files.
        values: The resolved values.
        prepared: What went in; serving loads the base it names, by key and content, with the entries of its config
            that an adapter was trained with.
        merged: Facts of a merged model for its manifest; None where nothing was merged.

    Returns:
        Its manifest.
    """
    adapter = values.finetuning_config.peft_conf.peft_type != "NO_PEFT" and merged is None
    about: dict[str, Any] = {
        "type": "adapter" if adapter else "model",
        "run": run_name(values),
        "base": {"key": prepared.inputs.base.key, "content_sha256": prepared.inputs.base.content_sha256},
        "datasets": {entry.key: entry.content_sha256 for entry in prepared.inputs.datasets},
        **(merged or {}),
    }
    entries = changed_entries(values, Path(prepared.base_folder)) if adapter else {}
    if entries:
        about["config"] = entries  # a whole model has them in its config.json
    name = "checkpoint-final" if merged is None else "checkpoint-final-merged"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with progress_bar(f"Publishing {name}", size, "bytes") as advance:
        return attempt.publish_final(folder, name, about, advance=advance)


def publish_merged(
    attempt: Attempt,
    final: Path,
    adapter: Manifest,
    workdir: Path,
    values: FinetuneValues,
    prepared: Prepared,
    stop: Callable[[], bool] = never,
) -> None:
    """Merge the published adapter into its base, compare the two, and publish the result.

    Args:
        attempt: The attempt that owns the run.
        final: The finished folder of the adapter.
        adapter: The manifest that it is published with.
        workdir: The process's folder.
        values: The resolved values.
        prepared: What went in.
        stop: Whether to end early.

    Raises:
        IntegrityError: If the merged model computes something else; then it is not published.
        MergeStopped: If `stop` returned True.
    """
    write_progress(workdir, phase="merging")
    base = Path(prepared.base_folder)
    merged = workdir / "final-merged"
    shutil.rmtree(merged, ignore_errors=True)
    rows = _held_out(prepared)
    texts = [Text(row["input_ids"][:TEXT_TOKENS].tolist(), _compared(row)) for row in rows]
    prompts = [_prompt(row) for row in rows[:MERGE_PROMPTS]]
    entries = changed_entries(values, base)
    try:
        check = merge_adapter(base, final, merged, prompts, texts=texts, entries=entries, stop=stop)
    except IntegrityError as error:
        key = f"{attempt.prefix}/checkpoint-final"
        raise IntegrityError(
            f"{error.message} The adapter is published: {key}.",
            hint=f"Serve the adapter itself: {command(f'tuneyard serve --set model=s3://{key}')}",
            **error.details,
        ) from error
    for path in final.iterdir():
        ours = path.name.startswith("adapter_") or path.name == MANIFEST
        settings = path.name == "generation_config.json"
        if path.is_file() and not ours and (settings or not (merged / path.name).exists()):
            shutil.copy(path, merged)
    card = merged / "README.md"
    card.write_text(merged_card(card.read_text(encoding="utf-8"), asdict(check)), encoding="utf-8")
    facts = {"adapter": {"content_sha256": adapter.content_sha256}, "merge_check": asdict(check)}
    publish_final(attempt, merged, values, prepared, facts)
    logger.info(f"Merged: '{attempt.prefix}/checkpoint-final-merged'.")


def _held_out(prepared: Prepared) -> list[Row]:
    """Choose rows to compare models on, evenly among those of the validation, else among those trained on."""
    rows = EncodedRows(Path(prepared.validation_folder or prepared.rows_folder))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(MERGE_TEXTS, len(rows))).astype(int))
    return [rows[int(index)] for index in chosen]


def _compared(row: Row) -> int:
    return min(COMPARED_TOKENS, TEXT_TOKENS, len(row["input_ids"]))


def _prompt(row: Row) -> list[int]:
    """Return the tokens before the first answer of a row, their end if long; one token if the whole row is trained."""
    first = int(np.argmax(row["loss_mask"]))
    return row["input_ids"][: max(first, 1)][-TEXT_TOKENS:].tolist()


def merge_later(
    values: FinetuneValues, prepared: Prepared, store: Store, workdir: Path, stop: Callable[[], bool] = never
) -> None:
    """Publish the merged model of a run that is trained already.

    Raises:
        IntegrityError: If the published adapter is damaged, or the merge computes something else.
        InvalidDataError: If it needs more than plain weights: it has been in a bucket since it was trained.
        MergeStopped: If `stop` returned True.
    """
    experiment = experiment_of(values, store)
    manifest = experiment.finished()
    assert manifest is not None, "prepare found the run finished"
    attempt = experiment.claim(prepared.inputs.record(values))
    where = f"{experiment.prefix}/checkpoint-final"
    final = pull(store, f"{where}/", manifest, workdir / "final")
    vet_model(final, [entry.path for entry in manifest.files], where=where)
    publish_merged(attempt, final, manifest, workdir, values, prepared, stop)
    write_progress(workdir, phase="finished")
