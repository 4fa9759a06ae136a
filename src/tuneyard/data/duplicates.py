"""Equal and nearly equal rows: a digest and a MinHash signature of each, compared with numpy.

A signature is a MinHash of the 8-byte pieces of a row's text (case and spaces ignored; without system message and
tools, which whole files share): one permutation hashing [Li, Owen and Zhang 2012] with optimal densification
[Shrivastava 2017], one byte of each minimum kept [Li and König 2010]. The share of equal bytes estimates the Jaccard
index with a standard deviation of 0.05 at 0.8. Rows that share any of 24 groups of 8 signature bytes are compared
(locality-sensitive hashing), which finds a pair of 0.8 with a probability of 0.95.

Takes 84 bytes a row, and about 200 at the peak, while one group of all rows is sorted. numpy is imported inside the
functions, so that the command line starts without it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuneyard.data.conversations import Conversation, Preference
from tuneyard.data.formats import Format
from tuneyard.data.reading import Row, read_rows
from tuneyard.errors import Problem
from tuneyard.progress import Advance

if TYPE_CHECKING:
    from numpy import bool_, float32, int32, uint8, uint64
    from numpy.typing import NDArray

SIGNATURE_BYTES = 64
RECORD_BYTES = 8 + SIGNATURE_BYTES
"""8 bytes of a row's digest, then its signature."""

_GROUP_BYTES = 8
_PIECE_BYTES = 8
_SHUFFLES = 3
_CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The row that another row is equal or nearly equal to.

    Attributes:
        where: Its `file:line`.
        similarity: 1 where the rows are equal, else the estimated share of text in common.
    """

    where: str
    similarity: float

    @property
    def relation(self) -> str:
        """`equal to` or `nearly equal to`."""
        return "equal to" if self.similarity == 1 else "nearly equal to"


class Duplicates:
    """Equal and nearly equal rows, by their number among the readable rows of their files.

    Args:
        training: Files of training rows.
        validation: Files of validation rows, which training rows may leak from.
        formats: The format of each file's rows.
        similarity: The share of text in common from which two rows are nearly equal.
        advance: Called with 1 for each row.
        names: What files are called, as for `read_rows`.
    """

    def __init__(
        self,
        training: Sequence[Path],
        validation: Sequence[Path] = (),
        *,
        formats: Mapping[Path, Format] | None = None,
        similarity: float = 0.8,
        advance: Advance | None = None,
        names: Mapping[Path, str] | None = None,
    ) -> None:
        train, held = (_read(read_rows(paths, formats, names), advance) for paths in (training, validation))
        self._places = (train.places, held.places)
        self._earlier = (
            most_similar(train.records, similarity=similarity),
            most_similar(held.records, similarity=similarity),
        )
        self._leaks = most_similar(train.records, held.records, similarity=similarity)

    def earlier(self, number: int, *, validation: bool = False) -> Duplicate | None:
        """Return the earlier row of the same files that a row is equal or nearly equal to."""
        return _duplicate(self._earlier[validation], number, self._places[validation])

    def leak(self, number: int) -> Duplicate | None:
        """Return the validation row that a training row is equal or nearly equal to."""
        return _duplicate(self._leaks, number, self._places[True])

    def group(self, number: int, *, validation: bool = False) -> int:
        """Return the number of the first row of the same files that a row duplicates, directly or through others."""
        others = self._earlier[validation].others
        while number < len(others) and others[number] >= 0:
            number = int(others[number])
        return number


@dataclass(frozen=True, slots=True)
class MostSimilar:
    """For each row, the row it is most similar to.

    Attributes:
        others: The number of that row, -1 where there is none; of shape `[rows]`.
        shares: The estimated share of text in common, 1 where equal; of shape `[rows]`.
    """

    others: NDArray[int32]
    shares: NDArray[float32]

    def update(self, rows: Any, others: Any, shares: Any) -> None:
        """Update the rows for which a more similar row was found."""
        better = shares > self.shares[rows]
        self.others[rows[better]] = others[better]
        self.shares[rows[better]] = shares[better]


def most_similar(
    records: NDArray[uint8], others: NDArray[uint8] | None = None, *, similarity: float = 0.8
) -> MostSimilar:
    """Find the most similar row of each row, among those that share the digest or a group of signature bytes.

    Args:
        records: A digest and a signature of each row, of shape `[rows, RECORD_BYTES]`.
        others: The records to search; where None, each row is compared with the rows before it.
        similarity: The share of text in common from which two rows are nearly equal.

    Returns:
        The most similar row of each row.
    """
    import numpy as np

    searched = records if others is None else others
    found = MostSimilar(np.full(len(records), -1, np.int32), np.zeros(len(records), np.float32))
    if not len(records) or not len(searched):
        return found
    for columns in _groups():
        keys = _keys(records, columns)
        rows, matches = _first_matches(keys, keys if others is None else _keys(searched, columns))
        if others is None:
            later = rows != matches
            rows, matches = rows[later], matches[later]
        if columns is _DIGEST:
            found.update(rows, matches, np.ones(len(rows), np.float32))
            continue
        unequal = found.shares[rows] < 1
        rows, matches = rows[unequal], matches[unequal]
        for begin in range(0, len(rows), _CHUNK_ROWS):
            some, them = rows[begin : begin + _CHUNK_ROWS], matches[begin : begin + _CHUNK_ROWS]
            shares = _shares(records[some], searched[them])
            enough = shares >= similarity
            # 1 stands for equal rows
            found.update(some[enough], them[enough], shares[enough].clip(max=0.99))
    return found


def signature(text: str) -> bytes:
    """Return 64 bytes; the share of equal bytes of two texts estimates their Jaccard index.

    Args:
        text: A text; case and the number of spaces make no difference.
    """
    import numpy as np

    tables = _tables()
    body = " ".join(text.lower().split()).encode(errors="surrogatepass").ljust(_PIECE_BYTES)
    pieces = np.ndarray((len(body) - _PIECE_BYTES + 1,), np.dtype("<u8"), body, strides=(1,)).astype(np.uint64)
    pieces = _mixed(pieces)
    pieces.sort()
    # the highest 6 bits are a piece's bin, so the first of each bin is its minimum
    begins = np.minimum(np.searchsorted(pieces, tables.edges), len(pieces) - 1)
    least = pieces[begins]
    filled: NDArray[bool_] = (least >> np.uint64(58)) == tables.bins
    values = (least & np.uint64(0xFF)).astype(np.uint8)
    if not filled.all():
        source = tables.probes[np.arange(SIGNATURE_BYTES), filled[tables.probes].argmax(axis=1)]
        values = np.where(filled, values, values[source])
    return values.tobytes()


def _mixed(pieces: NDArray[uint64]) -> NDArray[uint64]:
    import numpy as np

    # splitmix64's finalizer
    pieces ^= pieces >> np.uint64(30)
    pieces *= np.uint64(0xBF58476D1CE4E5B9)
    pieces ^= pieces >> np.uint64(27)
    pieces *= np.uint64(0x94D049BB133111EB)
    pieces ^= pieces >> np.uint64(31)
    return pieces


@dataclass(frozen=True)
class _Tables:
    bins: Any
    edges: Any
    probes: Any
    shuffles: Any


@cache
def _tables() -> _Tables:
    import numpy as np

    rng = np.random.default_rng(1)
    bins = np.arange(SIGNATURE_BYTES, dtype=np.uint64)
    probes = np.stack([rng.permutation(SIGNATURE_BYTES) for _ in range(SIGNATURE_BYTES)])
    shuffles = np.stack([rng.permutation(SIGNATURE_BYTES) for _ in range(_SHUFFLES)])
    return _Tables(bins, bins << np.uint64(58), probes, shuffles)


_DIGEST = tuple(range(RECORD_BYTES - SIGNATURE_BYTES))


def _groups() -> Iterator[tuple[int, ...]]:
    """Yield the columns of a record that are compared together: the digest, then groups of signature bytes."""
    yield _DIGEST
    for shuffle in _tables().shuffles:
        for begin in range(0, SIGNATURE_BYTES, _GROUP_BYTES):
            yield tuple(int(column) + len(_DIGEST) for column in shuffle[begin : begin + _GROUP_BYTES])


def _keys(records: NDArray[uint8], columns: Sequence[int]) -> NDArray[uint64]:
    import numpy as np

    return np.ascontiguousarray(records[:, columns]).view(np.uint64)[:, 0]


def _first_matches(keys: NDArray[uint64], searched: NDArray[uint64]) -> tuple[Any, Any]:
    """Return which keys are among those searched, and the first place of each there."""
    import numpy as np

    known, first = np.unique(searched, return_index=True)
    near = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    rows = np.nonzero(known[near] == keys)[0]
    return rows, first[near[rows]]


def _shares(records: NDArray[uint8], others: NDArray[uint8]) -> NDArray[float32]:
    """Estimate the share of text in common of pairs of rows, both of shape `[pairs, RECORD_BYTES]`."""
    equal = (records[:, len(_DIGEST) :] == others[:, len(_DIGEST) :]).mean(axis=1, dtype="float32")
    # one byte of two different minima is equal once in 256 times
    return (equal - 1 / 256) * (256 / 255)


class _Places:
    """The `file:line` of rows, in 4 bytes a row."""

    def __init__(self) -> None:
        self._lines: array[int] = array("I")
        self._files: list[tuple[int, str]] = []

    def append(self, where: str) -> None:
        file, _, line = where.rpartition(":")
        if not self._files or self._files[-1][1] != file:
            self._files.append((len(self._lines), file))
        self._lines.append(int(line))

    def where(self, number: int) -> str:
        file = self._files[bisect_right(self._files, number, key=lambda entry: entry[0]) - 1][1]
        return f"{file}:{self._lines[number]}"


@dataclass(frozen=True, slots=True)
class _Rows:
    places: _Places
    records: NDArray[uint8]


def _read(rows: Iterable[Row], advance: Advance | None) -> _Rows:
    import numpy as np

    places, records = _Places(), bytearray()
    for row in rows:
        if advance is not None:
            advance(1)
        if not isinstance(row, Problem):
            places.append(row.where)
            records += row.digest()[: len(_DIGEST)] + signature(_text(row))
    return _Rows(places, np.frombuffer(records, np.uint8).reshape(-1, RECORD_BYTES))


def _duplicate(found: MostSimilar, number: int, places: _Places) -> Duplicate | None:
    if number >= len(found.others) or found.others[number] < 0:
        return None
    return Duplicate(places.where(int(found.others[number])), round(float(found.shares[number]), 3))


def _text(row: Conversation | Preference) -> str:
    return "\n".join(
        f"{message.content} {message.fields['tool_calls']}" if "tool_calls" in message.fields else message.content
        for message in row.messages
        if message.role != "system"
    )
