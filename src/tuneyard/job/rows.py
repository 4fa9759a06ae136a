"""The conversations that a run names, checked, encoded and divided. Loads no torch, since `estimate` uses it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneyard.data import (
    ChatEncoder,
    Encoded,
    EncodedRow,
    Format,
    encode_files,
    load_tokenizer,
    special_tokens_line,
    split,
)
from tuneyard.errors import InvalidDataError
from tuneyard.job.mix import describe, mix_counts, mix_rows
from tuneyard.progress import Notify, progress_bar
from tuneyard.values import Dataset, FinetuneValues, TrainingData


def encoder_of(values: FinetuneValues, base_folder: Path, *, name: str = "") -> ChatEncoder:
    """Make the encoder of a run's values, from its base model's tokenizer.

    Args:
        values: The resolved values.
        base_folder: The base model, or as much of it as its tokenizer needs.
        name: The model's name in messages; the values' `basemodel` where empty.
    """
    config = values.finetuning_config
    rules = config.data_conf.rows
    tokenizer = load_tokenizer(base_folder, config.data_conf, name=name or values.basemodel)
    if config.method == "dpo":
        longest, completions_only = config.preference_args.max_length, True
    else:
        longest, completions_only = config.sft_args.max_seq_length, config.sft_args.train_on_completions_only
    return ChatEncoder(
        tokenizer,
        max_length=longest,
        completions_only=completions_only,
        overlong=rules.overlong,
        cut_answers=rules.cut_answers,
    )


def encoded_rows(
    values: FinetuneValues,
    base_folder: Path,
    training_files: Sequence[Path],
    validation_files: Sequence[Path],
    notify: Notify,
) -> tuple[list[Encoded], list[Encoded]]:
    """Check and encode every row, split them into training and validation, and mix those for training if configured.

    Args:
        values: The resolved values.
        base_folder: The base model, for its tokenizer and chat template.
        training_files: Files of conversations, or of preferences with method dpo.
        validation_files: The same for validation, if it has separate files.
        notify: Called with what a mix takes of each file, and with the rows dropped for special tokens in their texts.

    Returns:
        The sequences trained on and those validated on, which may be none. With method dpo two for each preference:
        with the chosen answer, then with the rejected one.

    Raises:
        InvalidDataError: With every bad row, or where nothing is left to train on.
    """
    encoder = encoder_of(values, base_folder)
    data = values.finetuning_config.data_conf
    formats: dict[Path, Format] = {
        **chosen_formats(validation_files, data.validation_data.datasets),
        **chosen_formats(training_files, data.training_data.datasets),
    }
    names = {
        **dict(zip(validation_files, [dataset.path for dataset in data.validation_data.datasets], strict=True)),
        **dict(zip(training_files, [dataset.path for dataset in data.training_data.datasets], strict=True)),
    }
    rows = _checked(values, training_files, encoder, formats, names, notify, validation_files)
    validation = _checked(values, validation_files, encoder, formats, names, notify) if validation_files else []
    held = data.validation_data
    if held.type == "AUTO_SPLIT":
        groups = None if data.rows.leaked == "keep" else [row.group for row in rows]
        chosen, held_out = split([row.sequences for row in rows], held.ratio, held.seed, groups)
        rows, validation = [rows[index] for index in chosen], [rows[index] for index in held_out]
    if data.training_data.type == "PRECOMPUTE_WEIGHTED_MIX":
        rows = _mixed(data.training_data, training_files, rows, notify)
    sequences = [each for row in rows for each in row.sequences]
    if not any(any(each.loss_mask) for each in sequences):
        raise InvalidDataError(
            f"No token of {', '.join(repr(file.name) for file in training_files)} would be trained.",
            hint="Use tuneyard data check to see what happened to each row.",
            problems=[],
        )
    return sequences, [each for row in validation for each in row.sequences]


def chosen_formats(files: Sequence[Path], datasets: Sequence[Dataset]) -> dict[Path, Format]:
    """Return the row formats that values choose, for the files whose format is not detected."""
    return {file: dataset.format for file, dataset in zip(files, datasets, strict=True) if dataset.format != "auto"}


def _mixed(
    training: TrainingData, files: Sequence[Path], rows: Sequence[EncodedRow], notify: Notify
) -> list[EncodedRow]:
    groups: list[list[EncodedRow]] = [[row for row in rows if row.file == place] for place in range(len(files))]
    sizes = [len(group) for group in groups]
    for file, size in zip(files, sizes, strict=True):
        if not size:
            raise InvalidDataError(
                f"'{file.name}' has no row left to mix: all of its rows are held out for validation or dropped.",
                hint="Add rows to it, or validate on separate files.",
                problems=[],
            )
    counts = mix_counts(len(rows), [dataset.weight for dataset in training.datasets])
    notify(describe([dataset.path for dataset in training.datasets], sizes, counts))
    return [groups[file][row] for file, row in mix_rows(sizes, counts, training.seed)]


def _checked(
    values: FinetuneValues,
    files: Sequence[Path],
    encoder: ChatEncoder,
    formats: Mapping[Path, Format],
    names: Mapping[Path, str],
    notify: Notify,
    validation: Sequence[Path] = (),
) -> list[EncodedRow]:
    rules = values.finetuning_config.data_conf.rows
    rows, report = encode_files(
        files,
        encoder,
        validation=validation,
        formats=formats,
        names=names,
        rows=rules,
        method=values.finetuning_config.method,
        progress=lambda name: progress_bar(name, None),
    )
    if report.special_token_rows:
        notify(f"{special_tokens_line(report)}; data_conf.rows.special_tokens is '{rules.special_tokens}'.")
    report.raise_if_bad(allow_bad_rows=rules.unusable == "drop")
    return rows
