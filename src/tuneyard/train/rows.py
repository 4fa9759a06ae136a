"""The conversations that a run names, checked, encoded and divided. Loads no torch, since `estimate` asks too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tuneyard.data import ChatEncoder, Encoded, encode_files, load_tokenizer, split
from tuneyard.errors import InvalidDataError
from tuneyard.progress import progress_bar
from tuneyard.values import FinetuneValues


def encoder_of(values: FinetuneValues, base_folder: Path) -> ChatEncoder:
    """Make the encoder that a run's values ask for, from its base model's tokenizer."""
    config = values.finetuning_config
    tokenizer = load_tokenizer(base_folder, config.data_conf)
    return ChatEncoder(
        tokenizer,
        max_length=config.sft_args.max_seq_length,
        completions_only=config.sft_args.train_on_completions_only,
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
    rows = _checked(training_files, encoder)
    validation = _checked(validation_files, encoder) if validation_files else []
    asked = values.finetuning_config.data_conf.validation_data
    if asked.type == "AUTO_SPLIT":
        chosen, held_out = split(rows, asked.ratio, asked.seed)
        rows, validation = [rows[index] for index in chosen], [rows[index] for index in held_out]
    sequences = [each for row in rows for each in row]
    if not any(any(each.loss_mask) for each in sequences):
        raise InvalidDataError(
            f"no token of {', '.join(file.name for file in training_files)} would be trained",
            hint="tuneyard data check shows what happened to each row",
            problems=[],
        )
    return sequences, [each for row in validation for each in row]


def _checked(files: Sequence[Path], encoder: ChatEncoder) -> list[list[Encoded]]:
    with progress_bar("checking the data", None) as advance:
        rows, report = encode_files(files, encoder, advance=advance)
    report.raise_if_bad()
    return rows
