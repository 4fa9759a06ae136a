"""Where `tuneyard data` gets its rows and its tokenizer from: files here, the store, or what values name.

Of a model in a remote store only the small files are fetched: the tokenizer needs none of the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuneyard.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from tuneyard.data import ChatEncoder, Format
    from tuneyard.store import Store
    from tuneyard.values import Dataset, FinetuneValues

    _Named = list[tuple[str, Format | None]]

# Values are complete only with these two keys; here the arguments name the model and the data.
_TOLD_ELSEWHERE = (
    "basemodel=default-bucket/models/told-by-argument",
    "finetuning_config.data_conf.training_data.datasets[0].path=default-bucket/datasets/told-by-argument.jsonl",
)


@dataclass(frozen=True, slots=True)
class DataSource:
    """Files of rows, and the training they are for.

    Attributes:
        paths: What is learnt from.
        validation: What is validated on, where that has files of its own.
        formats: The shapes of rows that were chosen; the other files tell it themselves.
        names: What the user calls each file: a path, or a key of the store.
        encoder: With the training's tokenizer and limits.
        values: The training's values.
    """

    paths: Sequence[Path]
    validation: Sequence[Path]
    formats: Mapping[Path, Format]
    names: Mapping[Path, str]
    encoder: ChatEncoder
    values: FinetuneValues


@contextmanager
def open_source(
    files: Sequence[str],
    model: str | None,
    values_files: Sequence[str],
    sets: Sequence[str],
    store: str | None,
    *,
    validation: Sequence[str] = (),
    format: Format | None = None,
) -> Generator[DataSource]:
    """Make files and tokenizer available for as long as the `with` block runs.

    Args:
        files: Files here or keys of the store; empty takes the values' datasets.
        model: A folder here or a key of the store; None takes the values' `basemodel`.
        values_files: Values files.
        sets: Values by `--set`.
        store: The store's URL; None takes the usual one.
        validation: Files that `files` are to be compared with.
        format: The shape of the rows of every file; None takes the values'.

    Raises:
        UsageError: If neither arguments nor values name files or a model.
        NotFoundError: If something named is not there.
    """
    from tuneyard.runs.plans import Sources, load_finetune_values, store_of
    from tuneyard.train.rows import encoder_of

    if not values_files and not sets and not (files and model):
        raise UsageError(
            "There is nothing to look at: name files and a model, or values.",
            hint="tuneyard data check FILE --model FOLDER, or tuneyard data check -f VALUES",
        )
    whole = () if values_files else _TOLD_ELSEWHERE
    values = load_finetune_values(Sources(values_files, [*whole, *sets]))
    data = values.finetuning_config.data_conf
    opened = store_of(Sources(store=store))
    with tempfile.TemporaryDirectory(prefix="tuneyard-data-") as scratch:
        folder = _model_folder(opened, model or values.basemodel, Path(scratch))
        named: _Named = [(file, format) for file in files] or _named(data.training_data.datasets, format)
        held: _Named = [(file, format) for file in validation]
        if not files:
            held += _named(data.validation_data.datasets, format)
        formats: dict[Path, Format] = {}
        names: dict[Path, str] = {}
        sides: list[list[Path]] = []
        for side in (named, held):
            sides.append([_data_file(opened, file, Path(scratch)) for file, _ in side])
            for path, (name, chosen) in zip(sides[-1], side, strict=True):
                names[path] = name
                if chosen is not None:
                    formats[path] = chosen
        encoder = encoder_of(values, folder, name=model or values.basemodel)
        yield DataSource(sides[0], sides[1], formats, names, encoder, values)


def _named(datasets: Sequence[Dataset], format: Format | None) -> _Named:
    return [(each.path, format or (None if each.format == "auto" else each.format)) for each in datasets]


def _model_folder(store: Store, model: str, scratch: Path) -> Path:
    from tuneyard.estimate.work import pull_settings
    from tuneyard.models import find_base

    if Path(model).is_dir():
        return Path(model)
    key = model.removeprefix("s3://").strip("/")
    return pull_settings(store, key, find_base(store, key), scratch / "model")


def _data_file(store: Store, file: str, scratch: Path) -> Path:
    from tuneyard.train.inputs import pull_dataset

    if Path(file).is_file():
        return Path(file)
    folder, _, name = file.removeprefix("s3://").rpartition("/")
    if not folder:
        raise NotFoundError(f"There is no file at {file}.", hint="Look at the path.")
    return pull_dataset(store, f"{folder}/{name}", scratch)
