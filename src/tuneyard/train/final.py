"""What a finished training publishes for serving: weights, tokenizer, card, plot, and the merged model if asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuneyard.checkpoints import Attempt
from tuneyard.deliver import vet_model
from tuneyard.progress import progress_bar
from tuneyard.store import Store, pull
from tuneyard.train.batches import EncodedRows, Row
from tuneyard.train.inputs import experiment_of, run_name
from tuneyard.train.merge import MergeCheck, merge_adapter
from tuneyard.train.model import name_base
from tuneyard.train.precision import precision_of
from tuneyard.train.prepare import Prepared
from tuneyard.train.report import model_card, plot_loss
from tuneyard.values import FinetuneValues

MERGE_PROMPTS = 4


def write_final(
    folder: Path,
    values: FinetuneValues,
    prepared: Prepared,
    rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> None:
    """Complete a folder that the trainer saved its model and tokenizer in.

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
        "versions": prepared.inputs.versions,
    }
    (folder / "README.md").write_text(model_card(facts), encoding="utf-8")
    per = "preference" if config.method == "dpo" else "trained token"
    plot_loss(rows, folder, title=run_name(values), per=per)


def set_generation(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Let generation settings saved beside the weights name the tokenizer's stop token too.

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
    """Let config.json name the type of the weights beside it, and the base's key-value cache: off in training only."""
    path = folder / "config.json"
    if path.exists():
        cached = json.loads((base / path.name).read_text(encoding="utf-8")).get("use_cache", True)
        config = {**json.loads(path.read_text(encoding="utf-8")), "use_cache": cached, "dtype": dtype}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def publish_final(
    attempt: Attempt,
    folder: Path,
    values: FinetuneValues,
    prepared: Prepared,
    *,
    merge_check: MergeCheck | None = None,
) -> None:
    """Publish a final folder with its manifest.

    Args:
        attempt: The attempt that owns the run.
        folder: The finished files.
        values: The resolved values.
        prepared: What went in; serving loads the base it names, by key and content.
        merge_check: How far a merged model is from its adapter; None where nothing was merged.
    """
    adapter = values.finetuning_config.peft_conf.peft_type != "NO_PEFT" and merge_check is None
    about: dict[str, Any] = {
        "type": "adapter" if adapter else "model",
        "run": run_name(values),
        "base": {"key": prepared.inputs.base.key, "content_sha256": prepared.inputs.base.content_sha256},
        "datasets": {entry.key: entry.content_sha256 for entry in prepared.inputs.datasets},
    }
    if merge_check is not None:
        about["merge_check"] = asdict(merge_check)
    name = "checkpoint-final-merged" if merge_check is not None else "checkpoint-final"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with progress_bar(f"publishing {name}", size, "bytes") as advance:
        attempt.publish_final(folder, name, about, advance=advance)


def publish_merged(attempt: Attempt, final: Path, workdir: Path, values: FinetuneValues, prepared: Prepared) -> None:
    """Merge the final adapter into its base, compare the two, and publish the result.

    Args:
        attempt: The attempt that owns the run.
        final: The finished folder of the adapter.
        workdir: The process's folder.
        values: The resolved values.
        prepared: What went in.

    Raises:
        IntegrityError: Where the merged model computes something else; it is not published then.
    """
    rows = EncodedRows(Path(prepared.rows_folder))
    prompts = [_prompt(rows[index]) for index in range(min(MERGE_PROMPTS, len(rows)))]
    merged = workdir / "final-merged"
    shutil.rmtree(merged, ignore_errors=True)
    check = merge_adapter(Path(prepared.base_folder), final, merged, prompts)
    for path in final.iterdir():
        ours = path.name.startswith("adapter_") or path.name == "manifest.json"
        settings = path.name == "generation_config.json"
        if path.is_file() and not ours and (settings or not (merged / path.name).exists()):
            shutil.copy(path, merged)
    publish_final(attempt, merged, values, prepared, merge_check=check)


def _prompt(row: Row) -> list[int]:
    """What comes before the first answer of a row; one token where the whole text is learnt."""
    first = int(np.argmax(row["loss_mask"]))
    return row["input_ids"][: max(first, 1)].tolist()


def merge_later(values: FinetuneValues, prepared: Prepared, store: Store, workdir: Path) -> None:
    """Publish the merged model of a run that is trained already.

    Raises:
        IntegrityError: Where the published adapter is damaged, or the merge computes something else.
        InvalidDataError: Where it asks for more than plain weights: it has been in a bucket since it was trained.
    """
    experiment = experiment_of(values, store)
    manifest = experiment.finished()
    assert manifest is not None, "prepare found the run finished"
    attempt = experiment.claim(prepared.inputs.record(values))
    where = f"{experiment.prefix}/checkpoint-final"
    final = pull(store, f"{where}/", manifest, workdir / "final")
    vet_model(final, [entry.path for entry in manifest.files], where=where)
    publish_merged(attempt, final, workdir, values, prepared)
