"""The counts of a check, row by row, in memory that does not grow with the rows.

Counts only: what happens to a row is decided by `check`.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from tuneyard.data.contract import check_template
from tuneyard.data.conversations import Conversation, Preference
from tuneyard.data.duplicates import Duplicate
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.data.report import Bin, DataReport, LongRow, Pair
from tuneyard.data.segments import examples_of
from tuneyard.data.special import SpecialText
from tuneyard.errors import Problem

_SAMPLES_OF_A_KIND = 4
_LONGEST = 5
_PAIRS = 20
_SPECIAL_TEXTS = 20
_REASONS = 1000
_NUMBERS = re.compile(r"\[\d+\]|\b\d+\b")


class Tally:
    """Counts rows, and builds the report.

    Args:
        encoder: The encoder, whose limits are reported.
        max_problems: The most problems to keep; all are counted.
    """

    def __init__(self, encoder: ChatEncoder, max_problems: int) -> None:
        self._encoder = encoder
        self._max_problems = max_problems
        self._formats: dict[str, str] = {}
        self._problems: list[Problem] = []
        self._count: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._lengths: Counter[int] = Counter()
        self._unused: Counter[str] = Counter()
        self._special: Counter[str] = Counter()
        self._special_texts: list[SpecialText] = []
        self._pairs: list[Pair] = []
        self._longest: list[tuple[int, int, str]] = []
        self._samples: dict[tuple[bool, ...], list[Conversation | Preference]] = {}

    def open(self, formats: Mapping[str, str]) -> None:
        """Add the next files, with the formats of their rows."""
        self._formats |= formats

    def add_problem(self, problem: Problem, *, validation: bool, refused: bool = False) -> None:
        """Count a problem of a row, or of a whole file."""
        if problem.where not in self._formats:
            self._count["rows"] += 1
            self._count["validation"] += validation
        self._refuse(problem, of_a_row=problem.where not in self._formats, refused=refused)

    def describe(self, row: Conversation | Preference, sequences: Sequence[Encoded], *, validation: bool) -> None:
        """Count the content of a usable row, before it is decided whether it is kept."""
        self._count["rows"] += 1
        self._count["validation"] += validation
        messages = row.messages
        roles = Counter(message.role for message in messages)
        self._messages.update(roles)
        self._turns[roles["assistant"]] += 1
        self._count["tools"] += row.tools is not None or any("tool_calls" in each.fields for each in messages)
        self._unused.update(row.unused)
        conversation = row if isinstance(row, Conversation) else row.conversations[0]
        self._unused.update(self._encoder.unrendered(conversation))
        length = max(each.length for each in sequences)
        self._lengths[length] += 1
        entry = (length, -self._count["rows"], row.where)
        (heapq.heappush if len(self._longest) < _LONGEST else heapq.heappushpop)(self._longest, entry)

    def add_pair(self, where: str, duplicate: Duplicate, *, leaks: bool) -> None:
        """Count a row that is equal or nearly equal to another."""
        kind = "leaked" if leaks else "duplicates"
        self._count[kind if duplicate.similarity == 1 else f"near_{kind}"] += 1
        if len(self._pairs) < _PAIRS:
            self._pairs.append(Pair(where, duplicate.where, duplicate.similarity, leaks))

    def add_special(self, found: Sequence[SpecialText]) -> None:
        """Count a row with special tokens in its texts."""
        self._count["special"] += bool(found)
        self._special.update({one.token for one in found})
        self._special_texts += found[: _SPECIAL_TEXTS - len(self._special_texts)]

    def refuse(self, problem: Problem) -> None:
        """Count a row that is refused by the values."""
        self._refuse(problem, of_a_row=True, refused=True)

    def keep(self, row: Conversation | Preference, sequences: Sequence[Encoded], reason: str) -> list[Encoded]:
        """Count a row as kept or dropped, and return the kept sequences.

        Args:
            row: The row.
            sequences: Its encoded sequences.
            reason: The key of `data_conf.rows` that drops it; empty if none does.
        """
        kept = [each for each in sequences if not each.dropped]
        if isinstance(row, Preference) and len(kept) < len(sequences):
            kept = []  # one side alone can't be trained on
        reason = reason or ("" if kept else next(each.reason for each in sequences if each.dropped))
        if reason:
            self._count["dropped"] += 1
            self._dropped[reason] += 1
            return []
        several = isinstance(row, Conversation) and len(sequences) > 1
        self._count["kept"] += 1
        self._count["sequences"] += len(kept)
        self._count["several"] += several
        self._count["left_out"] += len(sequences) - len(kept)
        self._count["truncated"] += any(each.truncated for each in kept)
        self._count["cut_answers"] += any(each.cuts_answer for each in kept)
        self._count["lost_answers"] += sum(each.lost_answers for each in kept)
        self._count["apart"] += any(each.apart for each in kept)
        self._count["tokens"] += sum(len(each.input_ids) for each in kept)
        self._count["trained"] += sum(sum(each.loss_mask) for each in kept)
        self._sample(row, several=several)
        return kept

    def report(self, examples: int = 0) -> DataReport:
        """Return the report, with the template's contract checked on some of the rows.

        Args:
            examples: How many rows to include as text.
        """
        samples = [one for kind in self._samples.values() for one in kind]
        sampled = [each for one in samples for each in ([one] if isinstance(one, Conversation) else one.conversations)]
        for problem in check_template(self._encoder, sampled):
            # Reported first, since it is not a problem of a row.
            self._count["problems"] += 1
            self._reasons[_reason(problem)] += 1
            self._problems.insert(0, problem)
        lengths = sorted(self._lengths.items())
        longest = tuple(LongRow(where, tokens) for tokens, _, where in sorted(self._longest, reverse=True))
        # one of each kind first
        different = [
            kind[place] for place in range(_SAMPLES_OF_A_KIND) for kind in self._samples.values() if kind[place:]
        ]
        count = self._count
        return DataReport(
            files=tuple(self._formats),
            formats=dict(self._formats),
            rows=count["rows"],
            validation_rows=count["validation"],
            tool_rows=count["tools"],
            kept=count["kept"],
            truncated=count["truncated"],
            dropped=count["dropped"],
            dropped_for=dict(self._dropped.most_common()),
            bad=count["bad"],
            refused=count["refused"],
            reasons=dict(self._reasons.most_common()),
            sequences=count["sequences"],
            several=count["several"],
            left_out=count["left_out"],
            apart=count["apart"],
            cut_answers=count["cut_answers"],
            lost_answers=count["lost_answers"],
            duplicates=count["duplicates"],
            near_duplicates=count["near_duplicates"],
            leaked=count["leaked"],
            near_leaked=count["near_leaked"],
            pairs=tuple(self._pairs),
            messages=dict(self._messages),
            turns=dict(sorted(self._turns.items())),
            tokens=count["tokens"],
            trained_tokens=count["trained"],
            max_length=self._encoder.max_length,
            median_length=_percentile(lengths, 0.5),
            p90_length=_percentile(lengths, 0.9),
            longest_length=_percentile(lengths, 1.0),
            histogram=_bins(self._lengths),
            longest=longest,
            unused_fields=dict(self._unused.most_common()),
            special_tokens_in_text=dict(self._special.most_common()),
            special_token_rows=count["special"],
            special_texts=tuple(self._special_texts),
            problem_count=count["problems"],
            problems=tuple(self._problems),
            examples=tuple(each for row in different[:examples] for each in examples_of(self._encoder, row)),
        )

    def _refuse(self, problem: Problem, *, of_a_row: bool, refused: bool) -> None:
        self._count["problems"] += 1
        self._count["bad"] += of_a_row
        self._count["refused"] += refused
        reason = _reason(problem)
        self._reasons[reason if reason in self._reasons or len(self._reasons) < _REASONS else "other reasons"] += 1
        if len(self._problems) < self._max_problems:
            self._problems.append(problem)

    def _sample(self, row: Conversation | Preference, *, several: bool) -> None:
        messages = row.messages
        fields = {key for message in messages for key in message.fields}
        turns = sum(message.role == "assistant" for message in messages)
        called = "tool_calls" in fields
        kind = (several, turns > 1, called, bool(fields - {"tool_calls", "tool_call_id", "name"}))
        samples = self._samples.setdefault(kind, [])
        if len(samples) < _SAMPLES_OF_A_KIND:
            samples.append(row)


def _reason(problem: Problem) -> str:
    return _NUMBERS.sub(lambda found: "[]" if found[0].startswith("[") else "…", problem.what)


def _percentile(lengths: list[tuple[int, int]], share: float) -> int:
    """Return the least length that at least this share of the rows doesn't exceed; 0 if there are no rows."""
    needed = share * sum(rows for _, rows in lengths)
    passed = 0
    for length, rows in lengths:
        passed += rows
        if passed >= needed:
            return length
    return 0


def _bins(lengths: Counter[int]) -> tuple[Bin, ...]:
    """Count lengths in bins that double: 1-16, 17-32, 33-64 and so on, from the first that has rows to the last."""
    if not lengths:
        return ()
    counts: Counter[int] = Counter()
    for length, rows in lengths.items():
        counts[max(4, (length - 1).bit_length())] += rows
    powers = range(min(counts), max(counts) + 1)
    return tuple(Bin(1 if power == 4 else 2 ** (power - 1) + 1, 2**power, counts[power]) for power in powers)
