"""The result of a check of data: counts, lengths and problems.

Formatting is `show`'s, finding `check`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tuneyard.data.segments import Example
from tuneyard.data.special import SpecialText
from tuneyard.errors import InvalidDataError, Problem
from tuneyard.whereabouts import fitting


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram: rows of `least` to `most` tokens, both included."""

    least: int
    most: int
    rows: int


@dataclass(frozen=True, slots=True)
class LongRow:
    """One of the longest rows."""

    where: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A row that is equal or nearly equal to another.

    Attributes:
        where: The row.
        other: An earlier row; a validation row if the row leaks.
        similarity: 1 if they are equal, else the estimated share of common text.
        leaks: Whether the other one is a validation row, and this one a training row.
    """

    where: str
    other: str
    similarity: float
    leaks: bool


@dataclass(frozen=True, slots=True)
class DataReport:
    """The counts and problems of data.

    Attributes:
        files: The files read, validation files last.
        formats: The format of each file's rows, detected or from the values.
        validation_rows: How many of the rows are in validation files.
        tool_rows: Rows with tools or calls of them.
        rows: All rows that aren't blank: `kept + dropped + bad`.
        kept: Rows that can be trained on, including truncated ones.
        truncated: Kept rows that were truncated.
        dropped: Rows dropped by the values.
        dropped_for: Dropped rows by the key of `data_conf.rows`: `overlong`, `duplicates` and so on.
        bad: Rows that can't be used, or are refused by the values; each has a problem.
        refused: Those of them that are refused by the values.
        reasons: Problems by reason, most frequent first; numbers in it are omitted.
        sequences: The sequences of the kept rows: one for each, or several (see `encoding`).
        several: Kept rows of several sequences, since the template renders earlier turns differently.
        left_out: Dropped sequences of rows of which other sequences are kept.
        apart: Kept rows with an answer that was tokenised separately from its prompt (see `Encoded.apart`).
        cut_answers: Kept rows that were truncated inside an answer, so that its end is not trained.
        lost_answers: Whole answers that were cut off in truncated rows.
        duplicates: Rows equal to an earlier one in every message.
        near_duplicates: Rows nearly equal to an earlier one.
        leaked: Training rows equal to a validation row.
        near_leaked: Training rows nearly equal to a validation row.
        pairs: The first of all those, each with the row it equals.
        messages: Messages by role, in the rows that aren't bad.
        turns: Rows by their number of answers.
        tokens: Tokens in the kept rows' sequences.
        trained_tokens: Those of them in the loss.
        max_length: The limit, in tokens; None for none.
        median_length: Of the rows that aren't bad, in tokens, before truncation; a row of several sequences counts with
            its longest.
        p90_length: The 90th percentile, likewise.
        longest_length: The longest, likewise.
        histogram: Lengths of the rows that aren't bad, before truncation.
        longest: The longest rows, longest first.
        unused_fields: Fields that are not used, with the number of rows that have them.
        special_tokens_in_text: Special tokens in texts, with the number of rows that have them: the model reads them as
            control tokens there.
        special_token_rows: Rows that have any of them, whether kept or not.
        special_texts: The first of those texts.
        problem_count: The number of all problems.
        problems: The problems in order of occurrence, up to the limit of the check.
        examples: Some kept rows as the model reads them, as many as requested.
    """

    files: tuple[str, ...]
    formats: Mapping[str, str]
    rows: int
    validation_rows: int
    tool_rows: int
    kept: int
    truncated: int
    dropped: int
    dropped_for: Mapping[str, int]
    bad: int
    refused: int
    reasons: Mapping[str, int]
    sequences: int
    several: int
    left_out: int
    apart: int
    cut_answers: int
    lost_answers: int
    duplicates: int
    near_duplicates: int
    leaked: int
    near_leaked: int
    pairs: tuple[Pair, ...]
    messages: Mapping[str, int]
    turns: Mapping[int, int]
    tokens: int
    trained_tokens: int
    max_length: int | None
    median_length: int
    p90_length: int
    longest_length: int
    histogram: tuple[Bin, ...]
    longest: tuple[LongRow, ...]
    unused_fields: Mapping[str, int]
    special_tokens_in_text: Mapping[str, int]
    special_token_rows: int
    special_texts: tuple[SpecialText, ...]
    problem_count: int
    problems: tuple[Problem, ...]
    examples: tuple[Example, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready data, under the names of its attributes."""
        data = asdict(self)
        data["turns"] = {str(answers): rows for answers, rows in self.turns.items()}
        return data

    def raise_if_bad(self, *, allow_bad_rows: bool = False) -> None:
        """Raise if the data can't be trained on.

        Args:
            allow_bad_rows: Whether rows that can't be used may be dropped; those refused by the values never are.

        Raises:
            InvalidDataError: If there are problems that aren't allowed, or no rows are left to train on.
        """
        names = ", ".join(self.files)
        elsewhere = fitting("", " on a machine that reaches the store, with --store")
        hint = f"See every row: tuneyard data check with the same -f and --set{elsewhere}"
        template = [problem for problem in self.problems if not self._is_of_a_file(problem)]
        if template:
            raise InvalidDataError(
                f"Training and server would render conversations differently: {_sentence(template[0])}",
                hint="Use a built-in template: --set finetuning_config.data_conf.chat_template_name=chat-ml",
                problems=list(self.problems),
            )
        if self.problem_count and not (allow_bad_rows and not self.refused):
            first = _sentence(self.problems[0])
            raise InvalidDataError(
                f"{self.bad} of {self.rows} rows of {names} can't be used; the first: {first}" if self.bad else first,
                hint=hint,
                problems=list(self.problems),
            )
        if not self.kept:
            overlong = self.dropped_for.get("overlong", 0)
            too_long = f", {overlong} of them longer than {self.max_length} tokens" if overlong else ""
            raise InvalidDataError(
                f"None of the {self.rows} rows of {names} can be trained on{too_long}.",
                hint="Raise finetuning_config.sft_args.max_seq_length" if overlong else hint,
                problems=list(self.problems),
            )

    def _is_of_a_file(self, problem: Problem) -> bool:
        return any(problem.where == name or problem.where.startswith(f"{name}:") for name in self.files)


def _sentence(problem: Problem) -> str:
    text = str(problem)
    return text if text.endswith("?") else f"{text}."
