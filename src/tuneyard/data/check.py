"""Every row of data checked and counted before any training: on the CPU, in one pass, with flat memory.

`check` looks only; `encode_files` is the same pass that keeps what it encoded. Counts and lengths are kept, and 16
bytes per row to find duplicates; never the rows. Rendering for people is `show`'s.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tuneyard.data.contract import check_template
from tuneyard.data.conversations import Conversation, Preference
from tuneyard.data.encoding import ChatEncoder, Encoded
from tuneyard.data.reading import read_rows
from tuneyard.data.report import Bin, DataReport, LongRow
from tuneyard.errors import InvalidDataError, Problem
from tuneyard.progress import Advance

MAX_PROBLEMS = 10_000
_SAMPLES_OF_A_KIND = 2
_LONGEST = 5


def check(
    paths: Sequence[Path], encoder: ChatEncoder, *, max_problems: int = MAX_PROBLEMS, advance: Advance | None = None
) -> DataReport:
    """Read and encode every row, and report what is there and what is wrong with it.

    Args:
        paths: Files of conversations.
        encoder: With the tokenizer, the template and the limits of the training in question.
        max_problems: The most problems to keep; all are counted.
        advance: Called with 1 for each row.

    Returns:
        The report; call its `raise_if_bad` to stop on problems.

    Raises:
        NotFoundError: Where a file isn't there.
    """
    tally = _Tally(paths, encoder, max_problems)
    for _ in tally.encoded_rows(advance):
        pass
    return tally.report()


def encode_files(
    paths: Sequence[Path], encoder: ChatEncoder, *, max_problems: int = MAX_PROBLEMS, advance: Advance | None = None
) -> tuple[list[list[Encoded]], DataReport]:
    """Do as `check` does, and also return the rows that can be trained on, each as its sequences.

    Args:
        paths: Files of conversations.
        encoder: With the tokenizer, the template and the limits of the training.
        max_problems: The most problems to keep; all are counted.
        advance: Called with 1 for each row.

    Returns:
        The kept rows in the order of the files (truncated sequences included, dropped ones not), and the report.
        Nothing is raised for bad rows: call the report's `raise_if_bad`.

    Raises:
        NotFoundError: Where a file isn't there.
    """
    tally = _Tally(paths, encoder, max_problems)
    return list(tally.encoded_rows(advance)), tally.report()


class _Tally:
    def __init__(self, paths: Sequence[Path], encoder: ChatEncoder, max_problems: int) -> None:
        self._paths = paths
        self._encoder = encoder
        self._max_problems = max_problems
        self._problems: list[Problem] = []
        self._problem_count = 0
        self._count: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._turns: Counter[int] = Counter()
        self._lengths: Counter[int] = Counter()
        self._unused: Counter[str] = Counter()
        self._special: Counter[str] = Counter()
        self._seen: set[bytes] = set()
        self._longest: list[tuple[int, int, str]] = []
        self._samples: dict[tuple[bool, ...], list[Conversation]] = {}
        special = sorted(set(map(str, encoder.tokenizer.all_special_tokens)), key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")

    def encoded_rows(self, advance: Advance | None) -> Iterator[list[Encoded]]:
        names = {str(path) for path in self._paths}
        for row in read_rows(self._paths):
            if advance is not None:
                advance(1)
            if isinstance(row, Problem):
                self._add_problem(row, of_a_row=row.where not in names)
                continue
            if isinstance(row, Preference):
                what = "is a preference, and supervised finetuning learns conversations"
                self._add_problem(Problem(row.where, what, allowed="method: dpo"), of_a_row=True)
                continue
            kept = self._encode(row)
            if kept:
                yield kept

    def report(self) -> DataReport:
        for problem in check_template(self._encoder, [one for kind in self._samples.values() for one in kind]):
            # told first: no row is at fault
            self._problem_count += 1
            self._problems.insert(0, problem)
        lengths = sorted(self._lengths.items())
        return DataReport(
            files=tuple(str(path) for path in self._paths),
            rows=self._count["rows"],
            kept=self._count["kept"],
            truncated=self._count["truncated"],
            dropped=self._count["dropped"],
            bad=self._count["bad"],
            sequences=self._count["sequences"],
            several=self._count["several"],
            left_out=self._count["left_out"],
            apart=self._count["apart"],
            duplicates=self._count["duplicates"],
            messages=dict(self._messages),
            turns=dict(sorted(self._turns.items())),
            tokens=self._count["tokens"],
            trained_tokens=self._count["trained"],
            max_length=self._encoder.max_length,
            median_length=_percentile(lengths, 0.5),
            p90_length=_percentile(lengths, 0.9),
            longest_length=_percentile(lengths, 1.0),
            histogram=_bins(self._lengths),
            longest=tuple(LongRow(where, tokens) for tokens, _, where in sorted(self._longest, reverse=True)),
            unused_fields=dict(self._unused.most_common()),
            special_tokens_in_text=dict(self._special.most_common()),
            problem_count=self._problem_count,
            problems=tuple(self._problems),
        )

    def _add_problem(self, problem: Problem, *, of_a_row: bool) -> None:
        self._problem_count += 1
        if of_a_row:
            self._count["rows"] += 1
            self._count["bad"] += 1
        if len(self._problems) < self._max_problems:
            self._problems.append(problem)

    def _encode(self, conversation: Conversation) -> list[Encoded]:
        try:
            sequences = self._encoder.encode(conversation)
        except InvalidDataError as error:
            self._add_problem(error.problems[0], of_a_row=True)
            return []
        self._count["rows"] += 1
        self._describe(conversation)
        length = max(each.length for each in sequences)
        self._lengths[length] += 1
        entry = (length, -self._count["rows"], conversation.where)
        (heapq.heappush if len(self._longest) < _LONGEST else heapq.heappushpop)(self._longest, entry)
        kept = [each for each in sequences if not each.dropped]
        self._count["kept" if kept else "dropped"] += 1
        if not kept:
            return []
        self._count["sequences"] += len(kept)
        self._count["several"] += len(sequences) > 1
        self._count["left_out"] += len(sequences) - len(kept)
        self._count["truncated"] += any(each.truncated for each in kept)
        self._count["apart"] += any(each.apart for each in kept)
        self._count["tokens"] += sum(len(each.input_ids) for each in kept)
        self._count["trained"] += sum(sum(each.loss_mask) for each in kept)
        self._sample(conversation, several=len(sequences) > 1)
        return kept

    def _sample(self, conversation: Conversation, *, several: bool) -> None:
        fields = {key for message in conversation.messages for key in message.fields}
        turns = sum(message.role == "assistant" for message in conversation.messages)
        called = "tool_calls" in fields
        kind = (several, turns > 1, called, bool(fields - {"tool_calls", "tool_call_id", "name"}))
        samples = self._samples.setdefault(kind, [])
        if len(samples) < _SAMPLES_OF_A_KIND:
            samples.append(conversation)

    def _describe(self, conversation: Conversation) -> None:
        roles = Counter(message.role for message in conversation.messages)
        self._messages.update(roles)
        self._turns[roles["assistant"]] += 1
        self._unused.update(conversation.unused)
        self._unused.update(self._encoder.unrendered(conversation))
        texts = (message.content for message in conversation.messages)
        self._special.update({token for text in texts for token in self._special_pattern.findall(text)})
        digest = conversation.digest()
        self._count["duplicates"] += digest in self._seen
        self._seen.add(digest)


def _percentile(lengths: list[tuple[int, int]], share: float) -> int:
    """Return the least length that at least this share of the rows doesn't exceed; 0 where there are no rows."""
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
