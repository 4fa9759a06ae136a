"""The data of a job, made available on this machine to be checked or shown: local files, keys of the store, or both.

Of a model in a store only the small files are fetched: a tokenizer needs none of the weights.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.data import (
    ChatEncoder,
    Conversation,
    DataReport,
    Format,
    Preference,
    check,
    conversation_text,
    conversations_of,
    read_rows,
)
from tuneyard.errors import InvalidDataError, NotFoundError, Problem
from tuneyard.job.inputs import pull_dataset, pull_settings
from tuneyard.job.rows import encoder_of
from tuneyard.models import find_base
from tuneyard.progress import progress_bar
from tuneyard.store import Store
from tuneyard.values import Dataset, FinetuneValues

if TYPE_CHECKING:
    from rich.text import Text

    Named = list[tuple[str, Format | None]]

_CHECK = "Use tuneyard data check with the same arguments to see every row."


@dataclass(frozen=True, slots=True)
class DataSource:
    """Files of rows, and the training they are for.

    Attributes:
        paths: The training files.
        validation: The validation files, if there are separate ones.
        formats: The formats of rows that were chosen; those of other files are detected.
        names: The name of each file for the user: a path, or a key of the store.
        encoder: With the training's tokenizer and limits.
        values: The training's values.
    """

    paths: Sequence[Path]
    validation: Sequence[Path]
    formats: Mapping[Path, Format]
    names: Mapping[Path, str]
    encoder: ChatEncoder
    values: FinetuneValues


@dataclass(frozen=True, slots=True)
class ShownRow:
    """One row as the model reads it.

    Attributes:
        where: Its file and line.
        text: The rendered conversations, with what is trained between « and ».
        document: The same for programs: messages, token ids, loss mask, length and fate.
    """

    where: str
    text: Text
    document: Mapping[str, Any]


@contextmanager
def open_source(
    values: FinetuneValues,
    store: Store,
    data: Sequence[str | os.PathLike[str]],
    model: str | None,
    validation: Sequence[str | os.PathLike[str]],
    format: Format | None,
) -> Generator[DataSource]:
    """Make files and a tokenizer available for the duration of the `with` block.

    Args:
        values: The training's values.
        store: Where keys are looked up.
        data: Files here or keys of the store; empty takes the values' datasets.
        model: A folder here or a key of the store; None takes the values' `basemodel`.
        validation: Files that `data` is compared with.
        format: The format of the rows of every file; None takes the values'.

    Raises:
        NotFoundError: If something named is not there.
    """
    conf = values.finetuning_config.data_conf
    with tempfile.TemporaryDirectory(prefix="tuneyard-data-") as scratch:
        folder = _model_folder(store, model or values.basemodel, Path(scratch))
        named: Named = [(os.fspath(file), format) for file in data] or _named(conf.training_data.datasets, format)
        held: Named = [(os.fspath(file), format) for file in validation]
        if not data:
            held += _named(conf.validation_data.datasets, format)
        formats: dict[Path, Format] = {}
        names: dict[Path, str] = {}
        sides: list[list[Path]] = []
        for side in (named, held):
            sides.append([_data_file(store, file, Path(scratch)) for file, _ in side])
            for path, (name, chosen) in zip(sides[-1], side, strict=True):
                names[path] = name
                if chosen is not None:
                    formats[path] = chosen
        encoder = encoder_of(values, folder, name=model or values.basemodel)
        yield DataSource(sides[0], sides[1], formats, names, encoder, values)


@dataclass(frozen=True, slots=True)
class CheckedData:
    """What a check of data found.

    Attributes:
        report: Counts, lengths and problems.
        trainable: Whether a training would start: no row is refused, and at least one is left.
    """

    report: DataReport
    trainable: bool


def check_source(source: DataSource, *, examples: int = 0) -> CheckedData:
    """Check every row of a source.

    Args:
        source: The rows.
        examples: How many rows of each kind the report shows.
    """
    config = source.values.finetuning_config
    report = check(
        source.paths,
        source.encoder,
        validation=source.validation,
        formats=source.formats,
        names=source.names,
        rows=config.data_conf.rows,
        method=config.method,
        examples=examples,
        progress=lambda name: progress_bar(name, None),
    )
    stops = report.problem_count if config.data_conf.rows.unusable == "refuse" else report.refused
    return CheckedData(report, trainable=bool(report.kept and not stops))


def show_source(source: DataSource, *, count: int, skip: int) -> list[ShownRow]:
    """Return rows of a source as the model reads them.

    Args:
        source: The rows.
        count: How many.
        skip: How many to skip first.

    Raises:
        InvalidDataError: If one of them can't be used, or there is none.
    """
    paths = (*source.paths, *source.validation)
    rows = list(islice(read_rows(paths, source.formats, source.names), skip, skip + count))
    if bad := [row for row in rows if isinstance(row, Problem)]:
        raise InvalidDataError("Invalid rows can't be shown.", hint=_CHECK, problems=bad)
    if not rows:
        names = ", ".join(source.names[path] for path in paths)
        raise InvalidDataError(f"There is no row after the first {skip} of {names}.", hint=_CHECK)
    usable = [row for row in rows if not isinstance(row, Problem)]
    return [ShownRow(row.where, conversation_text(source.encoder, row), _document(source, row)) for row in usable]


def _document(source: DataSource, row: Conversation | Preference) -> dict[str, Any]:
    names = ("input_ids", "loss_mask", "length", "fate")
    sides = conversations_of(row)
    encoded = {
        side: [{name: getattr(each, name) for name in names} for each in source.encoder.encode(conversation)]
        for side, conversation in sides.items()
    }
    messages = {side: [each.as_dict() for each in conversation.messages] for side, conversation in sides.items()}
    if "" in sides:
        return {"where": row.where, "messages": messages[""], "sequences": encoded[""]}
    return {"where": row.where} | {side: {"messages": messages[side], "sequences": encoded[side]} for side in sides}


def _named(datasets: Sequence[Dataset], format: Format | None) -> Named:
    return [(each.path, format or (None if each.format == "auto" else each.format)) for each in datasets]


def _model_folder(store: Store, model: str, scratch: Path) -> Path:
    if Path(model).is_dir():
        return Path(model)
    key = model.removeprefix("s3://").strip("/")
    return pull_settings(store, key, find_base(store, key), scratch / "model")


def _data_file(store: Store, file: str, scratch: Path) -> Path:
    if Path(file).is_file():
        return Path(file)
    folder, _, name = file.removeprefix("s3://").rpartition("/")
    if not folder:
        raise NotFoundError(f"There is no file '{file}'.", hint="Check the path.")
    return pull_dataset(store, f"{folder}/{name}", scratch)
