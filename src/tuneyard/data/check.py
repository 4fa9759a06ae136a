"""Check and count every row of data before any training: on the CPU, in two passes, with flat memory.

The first pass finds duplicates (`duplicates`), the second encodes each row and decides whether it is kept. `check` only
reports; `encode_files` also returns the encoded rows. Counts and lengths are kept, and some bytes per row; never the
rows. Counting is `tally`'s, rendering for people `show`'s and `page`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tuneyard.data.conversations import Conversation, Preference
from tuneyard.data.duplicates import Duplicates
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.data.formats import Format
from tuneyard.data.reading import format_of, name_of, read_rows
from tuneyard.data.report import DataReport
from tuneyard.data.special import SpecialText
from tuneyard.data.tally import Tally
from tuneyard.errors import InvalidDataError, Problem
from tuneyard.progress import Advance

if TYPE_CHECKING:
    from tuneyard.values import RowsConf

Method = Literal["sft", "dpo"]
Progress = Callable[[str], AbstractContextManager[Advance]]
"""Shows the progress of a pass of that name, such as `progress_bar`."""

MAX_PROBLEMS = 10_000
_ROW_TYPES: Mapping[Method, tuple[type, str, str]] = {
    "sft": (Conversation, "is a preference, but supervised finetuning trains on conversations", "method: dpo"),
    "dpo": (Preference, "has no chosen and rejected answers, which dpo trains on", "method: sft"),
}


@dataclass(frozen=True)
class EncodedRow:
    """A row that can be trained on.

    Attributes:
        sequences: Its encoded sequences, including truncated ones but not dropped ones; two for a preference.
        group: A number that is equal for rows that are equal or nearly equal.
        file: The index of its file among those given.
    """

    sequences: list[Encoded]
    group: int
    file: int


def silent(_: str) -> AbstractContextManager[Advance]:
    """Show no progress."""
    return nullcontext(lambda _: None)


def check(
    paths: Sequence[Path],
    encoder: ChatEncoder,
    *,
    validation: Sequence[Path] = (),
    formats: Mapping[Path, Format] | None = None,
    names: Mapping[Path, str] | None = None,
    rows: RowsConf | None = None,
    method: Method = "sft",
    max_problems: int = MAX_PROBLEMS,
    examples: int = 0,
    progress: Progress = silent,
) -> DataReport:
    """Read and encode every row, and report counts and problems.

    Args:
        paths: Files of rows to train on.
        encoder: With the tokenizer, the template and the limits of the training in question.
        validation: Validation files; their rows are checked too, and no row of `paths` should be among them.
        formats: The format of a file's rows, for files where it is not detected.
        names: The names of files in the report, as for `read_rows`.
        rows: What happens to equal, leaking and special rows; by default all are kept. (The limits are the encoder's.)
        method: What is trained on: conversations (`sft`) or preferences (`dpo`).
        max_problems: The most problems to keep; all are counted.
        examples: How many kept rows to include as text, as different as possible.
        progress: Opened with a name for each of the two passes, and advanced by each row.

    Returns:
        The report; call its `raise_if_bad` to stop on problems.

    Raises:
        NotFoundError: If a file does not exist.
    """
    checked = _Check(paths, validation, encoder, formats, names, rows, method, max_problems, progress)
    with progress("Checking rows") as advance:
        for is_validation in (False, True):
            for _ in checked.kept_rows(advance, validation=is_validation):
                pass
    return checked.tally.report(examples)


def encode_files(
    paths: Sequence[Path],
    encoder: ChatEncoder,
    *,
    validation: Sequence[Path] = (),
    formats: Mapping[Path, Format] | None = None,
    names: Mapping[Path, str] | None = None,
    rows: RowsConf | None = None,
    method: Method = "sft",
    max_problems: int = MAX_PROBLEMS,
    progress: Progress = silent,
) -> tuple[list[EncodedRow], DataReport]:
    """Do as `check` does, and also return the rows that can be trained on, each as its sequences.

    Args:
        paths: Files of rows.
        encoder: With the tokenizer, the template and the limits of the training.
        validation: Validation files; they are read only to find rows that leak.
        formats: The format of a file's rows, for files where it is not detected.
        names: The names of files in the report, as for `read_rows`.
        rows: What happens to equal, leaking and special rows; by default all are kept.
        method: What is trained on; a row of `dpo` is two sequences, the chosen and the rejected one.
        max_problems: The most problems to keep; all are counted.
        progress: Opened with a name for each of the two passes, and advanced by each row.

    Returns:
        The kept rows in the order of the files, and the report. Nothing is raised for bad rows: call the report's
        `raise_if_bad`.

    Raises:
        NotFoundError: If a file does not exist.
    """
    checked = _Check(paths, validation, encoder, formats, names, rows, method, max_problems, progress)
    with progress("Checking rows") as advance:
        kept = list(checked.kept_rows(advance))
    return kept, checked.tally.report()


class _Check:
    def __init__(
        self,
        training: Sequence[Path],
        validation: Sequence[Path],
        encoder: ChatEncoder,
        formats: Mapping[Path, Format] | None,
        names: Mapping[Path, str] | None,
        rows: RowsConf | None,
        method: Method,
        max_problems: int,
        progress: Progress,
    ) -> None:
        from tuneyard.values import RowsConf

        self._sides = {False: training, True: validation}
        self._rows = rows or RowsConf()
        self._encoder = encoder
        self._method: Method = method
        self._names = names
        self._formats: dict[Path, Format] = {
            path: (formats or {}).get(path) or format_of(path) for path in (*training, *validation)
        }
        with progress("Reading rows") as advance:
            self._duplicates = Duplicates(
                training,
                validation,
                formats=self._formats,
                similarity=self._rows.similarity,
                advance=advance,
                names=names,
            )
        self.tally = Tally(encoder, max_problems)

    def kept_rows(self, advance: Advance, *, validation: bool = False) -> Iterator[EncodedRow]:
        """Check the training or the validation rows, and yield those that can be trained on."""
        paths = self._sides[validation]
        self.tally.open({name_of(path, self._names): self._formats[path] for path in paths})
        number = -1
        for place, path in enumerate(paths):
            for row in read_rows([path], self._formats, self._names):
                advance(1)
                number += not isinstance(row, Problem)
                kept = self._kept(row, number, validation=validation)
                if kept:
                    yield EncodedRow(kept, self._duplicates.group(number, validation=validation), place)

    def _kept(self, row: Conversation | Preference | Problem, number: int, *, validation: bool) -> list[Encoded]:
        if isinstance(row, Problem):
            self.tally.add_problem(row, validation=validation)
            return []
        row_type, what, allowed = _ROW_TYPES[self._method]
        if not isinstance(row, row_type):
            self.tally.add_problem(Problem(row.where, what, allowed=allowed), validation=validation)
            return []
        conversations = (row,) if isinstance(row, Conversation) else row.conversations
        try:
            sequences = [each for conversation in conversations for each in self._encoder.encode(conversation)]
        except InvalidDataError as error:
            self.tally.add_problem(error.problems[0], validation=validation, refused="choice" in error.details)
            return []
        if isinstance(row, Preference) and len(sequences) > len(conversations):
            what = "has several answers on a side, and the chat template renders the earlier ones differently"
            self.tally.add_problem(Problem(row.where, what, allowed="one answer"), validation=validation)
            return []
        self.tally.describe(row, sequences, validation=validation)
        special = self._encoder.special_tokens.found_in(row)
        self.tally.add_special(special)
        reason = self._unwanted(row, number, special, validation=validation)
        if isinstance(reason, Problem):
            self.tally.refuse(reason)
            return []
        return self.tally.keep(row, sequences, reason)

    def _unwanted(
        self, row: Conversation | Preference, number: int, special: Sequence[SpecialText], *, validation: bool
    ) -> str | Problem:
        """Return the key of `data_conf.rows` that drops a row, the problem that refuses it, or an empty text."""
        rules = self._rows
        found: list[tuple[str, str, str]] = []
        if special:
            first = special[0]
            what = f"has the special token {first.token} in {first.part}, which the model reads as a control token"
            if rules.special_tokens == "refuse":
                return Problem(row.where, what, first.text, "data_conf.rows.special_tokens keep or drop")
            found.append(("special_tokens", rules.special_tokens, what))
        leak = None if validation else self._duplicates.leak(number)
        earlier = self._duplicates.earlier(number, validation=validation)
        if leak is not None:
            self.tally.add_pair(row.where, leak, leaks=True)
            found.append(("leaked", rules.leaked, f"is {leak.relation} a validation row"))
        if earlier is not None:
            self.tally.add_pair(row.where, earlier, leaks=False)
            name = "duplicates" if earlier.similarity == 1 else "near_duplicates"
            found.append((name, getattr(rules, name), f"is {earlier.relation} an earlier row"))
        for name, choice, what in found:
            if choice == "refuse":
                like = leak if name == "leaked" else earlier
                assert like is not None
                allowed = f"data_conf.rows.{name} keep or drop"
                return Problem(row.where, what, f"{like.where}, similarity {like.similarity:.2f}", allowed)
        return next((name for name, choice, _ in found if choice == "drop"), "")
