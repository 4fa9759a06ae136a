"""Rows from files: JSONL and Parquet, streamed, each row a conversation, a preference, or a problem.

Conversations are defined in `conversations`, the formats of rows in `formats`, tokens in `encoding`. Memory is one line
of JSONL or one batch of Parquet rows, however long the file is.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from tuneyard.data.conversations import Conversation, Preference, shown
from tuneyard.data.formats import Format, detect, parse_row
from tuneyard.errors import NotFoundError, Problem
from tuneyard.whereabouts import installation

Row = Conversation | Preference | Problem

_PARQUET_BATCH_ROWS = 256
_ROWS_TO_DETECT_BY = 64
_ALLOWED = ".jsonl (one JSON object a line) or .parquet"
_NOT_UTF8_MARKS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PAR1": "Parquet",
    b"\x1f\x8b": "gzip",
}


def read_rows(
    paths: Sequence[Path], formats: Mapping[Path, Format] | None = None, names: Mapping[Path, str] | None = None
) -> Iterator[Row]:
    """Read rows from files, in order.

    A row that can't be used comes as one `Problem` with its `file:line` and the first reason; a file that can't be read
    at all, or has no rows, as one `Problem` with its name. Blank lines of JSONL are skipped.

    Args:
        paths: Files ending in `.jsonl` or `.parquet`.
        formats: The format of a file's rows; detected by `format_of` for other files.
        names: The name of a file in `file:line`, such as its key in the store; by default its path.

    Yields:
        A conversation, a preference or a problem for each row.

    Raises:
        NotFoundError: If a file does not exist.
    """
    for path in paths:
        _check_is_there(path)
        chosen = (formats or {}).get(path) or format_of(path)
        name = name_of(path, names)
        number_of_rows = 0
        for raw in _raw_rows(path, name):
            number_of_rows += 1
            yield raw if isinstance(raw, Problem) else parse_row(raw[0], raw[1], chosen)
        if number_of_rows == 0:
            yield Problem(name, "the file has no rows")


def name_of(path: Path, names: Mapping[Path, str] | None) -> str:
    """Return the name of a file: the given one, or its path."""
    return (names or {}).get(path) or str(path)


def format_of(path: Path) -> Format:
    """Detect the format of a file's rows: that of most of its first 64 rows.

    Args:
        path: A file of rows.

    Returns:
        The format; `messages` if no row has a known one, so that each row is reported with what it lacks.

    Raises:
        NotFoundError: If the file does not exist.
    """
    _check_is_there(path)
    head = islice(_raw_rows(path, str(path)), _ROWS_TO_DETECT_BY)
    found = Counter(detect(raw[0]) for raw in head if not isinstance(raw, Problem))
    found.pop(None, None)
    return cast("Format", found.most_common(1)[0][0]) if found else "messages"


def _check_is_there(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(
            f"The data file '{path}' does not exist.", hint="Check the path, or deliver the data first.", path=str(path)
        )


_Raw = tuple[object, str] | Problem
"""A parsed row and its `file:line`, not validated yet."""


def _raw_rows(path: Path, name: str) -> Iterator[_Raw]:
    if path.is_dir():
        yield Problem(name, "is a folder", allowed="a file, " + _ALLOWED)
        return
    rows = {".jsonl": _read_jsonl, ".parquet": _read_parquet}.get(path.suffix.lower())
    if rows is None:
        meant = path.with_suffix(".jsonl").name if path.suffix.lower() in (".json", ".ndjson") else ""
        yield Problem(name, "has an unknown file extension", path.suffix or "none", _ALLOWED, meant)
        return
    yield from rows(path, name)


def _read_jsonl(path: Path, name: str) -> Iterator[_Raw]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{name}:{number}"
            if number == 1:
                kind = next((kind for mark, kind in _NOT_UTF8_MARKS.items() if line.startswith(mark)), None)
                if kind:
                    yield Problem(name, f"the file's content is {kind}", allowed="JSON lines in UTF-8")
                    return
            if line.strip():
                yield _parse_line(line, where)


def _parse_line(line: bytes, where: str) -> _Raw:
    if line.startswith(codecs.BOM_UTF8):
        return Problem(where, "the line begins with a byte order mark", allowed="UTF-8 without a byte order mark")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Problem(where, f"is not UTF-8 at byte {error.start + 1} of the line", f"byte 0x{line[error.start]:02x}")
    try:
        row: object = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        hint = "one object a line, without a list around them" if text.lstrip()[:1] in "[]" else "one JSON object"
        what = f"is not JSON: {error.msg.removesuffix(' at')} at character {error.pos + 1}"
        return Problem(where, what, shown(text), allowed=hint)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, _DuplicateKeyError) else "nested too deeply, or a number too long"
        return Problem(where, f"is not JSON that can be read: {reason}", shown(text[:200]))
    return row, where


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys, and would ignore the first one silently.
    made = dict(pairs)
    if len(made) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _DuplicateKeyError(f"the key {twice!r} is repeated")
    return made


def _read_parquet(path: Path, name: str) -> Iterator[_Raw]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise NotFoundError(
            f"Reading '{name}' needs pyarrow, which is not installed.", hint=installation("train")
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = list(file.schema_arrow.names)
            if detect(dict.fromkeys(columns)) is None:
                yield dict.fromkeys(columns), name
                return
            for batch in cast("Iterable[Any]", file.iter_batches(batch_size=_PARQUET_BATCH_ROWS)):
                for row in batch.to_pylist():
                    number += 1
                    yield _without_nulls(row), f"{name}:{number}"
    except (arrow.ArrowException, OSError) as error:
        after = f" after row {number}" if number else ""
        yield Problem(name, f"can't be read as Parquet{after}: {shown(str(error))}", allowed="a whole Parquet file")


def _without_nulls(value: Any) -> Any:
    # Parquet gives every struct all fields of its column; a null means that the row does not have the field.
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {key: _without_nulls(item) for key, item in pairs if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[Any]", value)]
    return value
