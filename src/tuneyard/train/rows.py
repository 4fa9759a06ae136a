"""The conversations that a run names, checked, encoded and divided. Loads no torch, since `estimate` asks too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneyard.data import ChatEncoder, Encoded, Format, encode_files, load_tokenizer, split
from tuneyard.errors import InvalidDataError
from tuneyard.progress import progress_bar
from tuneyard.values import Dataset, FinetuneValues, RowsConf


def encoder_of(values: FinetuneValues, base_folder: Path) -> ChatEncoder:
    """Make the encoder that a run's values ask for, from its base model's tokenizer."""
    config = values.finetuning_config
    tokenizer = load_tokenizer(base_folder, config.data_conf)
    return ChatEncoder(
        tokenizer,
        max_length=config.sft_args.max_seq_length,
        completions_only=config.sft_args.train_on_completions_only,
        overlong=config.data_conf.rows.overlong,
        cut_answers=config.data_conf.rows.cut_answers,
    )


def encoded_rows(
    values: FinetuneValues, base_folder: Path, training_files: Sequence[Path], validation_files: Sequence[Path]
) -> tuple[list[Encoded], list[Encoded]]:
    """Check and encode every row, and divide them into training and validation.

    Args:
        values: The resolved values.
        base_folder: The base model, for its tokenizer and chat template.
        training_files: Files of conversations.
        validation_files: The same, where validation has files of its own.

    Returns:
        The sequences trained on and those validated on, which may be none.

    Raises:
        InvalidDataError: With every bad row, or where nothing is left to train on.
    """
    encoder = encoder_of(values, base_folder)
    data = values.finetuning_config.data_conf
    formats: dict[Path, Format] = {
        **chosen_formats(validation_files, data.validation_data.datasets),
        **chosen_formats(training_files, data.training_data.datasets),
    }
    rows, groups = _checked(training_files, encoder, data.rows, formats, validation_files)
    validation = _checked(validation_files, encoder, data.rows, formats)[0] if validation_files else []
    asked = data.validation_data
    if asked.type == "AUTO_SPLIT":
        chosen, held_out = split(rows, asked.ratio, asked.seed, None if data.rows.leaked == "keep" else groups)
        rows, validation = [rows[index] for index in chosen], [rows[index] for index in held_out]
    sequences = [each for row in rows for each in row]
    if not any(any(each.loss_mask) for each in sequences):
        raise InvalidDataError(
            f"no token of {', '.join(file.name for file in training_files)} would be trained",
            hint="tuneyard data check shows what happened to each row",
            problems=[],
        )
    return sequences, [each for row in validation for each in row]


def chosen_formats(files: Sequence[Path], datasets: Sequence[Dataset]) -> dict[Path, Format]:
    """Return the shapes of rows that values name, of those files whose rows are not to tell it themselves."""
    return {file: dataset.format for file, dataset in zip(files, datasets, strict=True) if dataset.format != "auto"}


def _checked(
    files: Sequence[Path],
    encoder: ChatEncoder,
    rules: RowsConf,
    formats: Mapping[Path, Format],
    validation: Sequence[Path] = (),
) -> tuple[list[list[Encoded]], list[int]]:
    rows, groups, report = encode_files(
        files,
        encoder,
        validation=validation,
        formats=formats,
        rows=rules,
        progress=lambda name: progress_bar(name, None),
    )
    report.raise_if_bad(allow_bad_rows=rules.unusable == "drop")
    return rows, groups
