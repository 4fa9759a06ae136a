"""The conversations that a run names, checked, encoded and divided. Loads no torch, since `estimate` asks too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tuneyard.data import (
    ChatEncoder,
    Conversation,
    Encoded,
    Preference,
    encode_files,
    load_tokenizer,
    read_rows,
    split,
)
from tuneyard.errors import InvalidDataError, Problem
from tuneyard.progress import progress_bar
from tuneyard.train.mix import describe, mix_counts, mix_rows
from tuneyard.values import FinetuneValues
from tuneyard.values.finetuning import TrainingData


def encoder_of(values: FinetuneValues, base_folder: Path) -> ChatEncoder:
    """Make the encoder that a run's values ask for, from its base model's tokenizer."""
    config = values.finetuning_config
    tokenizer = load_tokenizer(base_folder, config.data_conf)
    if config.method == "dpo":
        return ChatEncoder(tokenizer, max_length=config.preference_args.max_length)
    return ChatEncoder(
        tokenizer,
        max_length=config.sft_args.max_seq_length,
        completions_only=config.sft_args.train_on_completions_only,
    )


def encoded_rows(
    values: FinetuneValues,
    base_folder: Path,
    training_files: Sequence[Path],
    validation_files: Sequence[Path],
    tell: Callable[[str], None],
) -> tuple[list[Encoded], list[Encoded]]:
    """Check and encode every row, divide them into training and validation, and mix those for training if asked to.

    Args:
        values: The resolved values.
        base_folder: The base model, for its tokenizer and chat template.
        training_files: Files of conversations.
        validation_files: The same, where validation has files of its own.
        tell: Told what a mix takes of each file.

    Returns:
        The sequences trained on and those validated on, which may be none. With method dpo two for each preference:
        with the chosen answer, then with the rejected one.

    Raises:
        InvalidDataError: With every bad row, or where nothing is left to train on.
    """
    encoder = encoder_of(values, base_folder)
    checked = _checked_pairs if values.finetuning_config.method == "dpo" else _checked
    training = values.finetuning_config.data_conf.training_data
    mixed = training.type == "PRECOMPUTE_WEIGHTED_MIX"
    groups = [checked([file], encoder) for file in training_files] if mixed else [checked(training_files, encoder)]
    rows = [row for group in groups for row in group]
    source = [place for place, group in enumerate(groups) for _ in group]
    validation = checked(validation_files, encoder) if validation_files else []
    asked = values.finetuning_config.data_conf.validation_data
    if asked.type == "AUTO_SPLIT":
        chosen, held_out = split(rows, asked.ratio, asked.seed)
        validation = [rows[index] for index in held_out]
        rows, source = [rows[index] for index in chosen], [source[index] for index in chosen]
    if mixed:
        rows = _mixed(training, training_files, rows, source, tell)
    sequences = [each for row in rows for each in row]
    if not any(any(each.loss_mask) for each in sequences):
        raise InvalidDataError(
            f"no token of {', '.join(file.name for file in training_files)} would be trained",
            hint="tuneyard data check shows what happened to each row",
            problems=[],
        )
    return sequences, [each for row in validation for each in row]


def _mixed(
    asked: TrainingData,
    files: Sequence[Path],
    rows: Sequence[list[Encoded]],
    source: Sequence[int],
    tell: Callable[[str], None],
) -> list[list[Encoded]]:
    groups: list[list[list[Encoded]]] = [[] for _ in files]
    for row, place in zip(rows, source, strict=True):
        groups[place].append(row)
    sizes = [len(group) for group in groups]
    for file, size in zip(files, sizes, strict=True):
        if not size:
            raise InvalidDataError(
                f"{file.name} has no row left to mix: all of its rows are kept back for validation.",
                hint="Add rows to it, or validate on files of their own.",
                problems=[],
            )
    counts = mix_counts(len(rows), [dataset.weight for dataset in asked.datasets])
    tell(describe([dataset.path for dataset in asked.datasets], sizes, counts))
    return [groups[file][row] for file, row in mix_rows(sizes, counts, asked.seed)]


def _checked(files: Sequence[Path], encoder: ChatEncoder) -> list[list[Encoded]]:
    with progress_bar("checking the data", None) as advance:
        rows, report = encode_files(files, encoder, advance=advance)
    report.raise_if_bad()
    return rows


def _checked_pairs(files: Sequence[Path], encoder: ChatEncoder) -> list[list[Encoded]]:
    """Encode preferences: the prompt with either answer. Those with an answer that is too long are left out."""
    pairs: list[list[Encoded]] = []
    problems: list[Problem] = []
    count = 0
    with progress_bar("checking the data", None) as advance:
        for row in read_rows(files):
            advance(1)
            count += 1
            if isinstance(row, Problem):
                problems.append(row)
                continue
            try:
                pair = _pair(row, encoder)
            except InvalidDataError as error:
                problems += error.problems
            else:
                if not any(answer.dropped for answer in pair):
                    pairs.append(pair)
    names = ", ".join(file.name for file in files)
    if problems:
        raise InvalidDataError(
            f"{len(problems)} of {count} rows of {names} can't be used; the first: {problems[0]}.",
            hint='a row of method dpo is {"prompt": …, "chosen": …, "rejected": …}, as text or as messages',
            problems=problems,
        )
    if not pairs:
        raise InvalidDataError(
            f"None of the {count} preferences of {names} can be trained on: each has an answer longer than"
            f" {encoder.max_length} tokens.",
            hint="--set finetuning_config.dpo_args.max_length=… allows longer ones",
            problems=[],
        )
    return pairs


def _pair(row: Conversation | Preference, encoder: ChatEncoder) -> list[Encoded]:
    if isinstance(row, Conversation):
        what = "is a conversation, and method dpo learns preferences"
        problem = Problem(row.where, what, allowed="chosen and rejected")
        raise InvalidDataError(str(problem), problems=[problem])
    pair: list[Encoded] = []
    for name, conversation in zip(("chosen", "rejected"), row.conversations, strict=True):
        sequences = encoder.encode(conversation)
        if len(sequences) > 1:
            what = f"has several answers in {name}, and the chat template renders the earlier ones otherwise after it"
            problem = Problem(row.where, what, allowed="one answer")
            raise InvalidDataError(str(problem), problems=[problem])
        pair += sequences
    return pair
