"""How a report and a conversation look on a terminal: with colour, and readable without.

Returns rich renderables and prints nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tuneyard.data.conversations import Conversation, printable
from tuneyard.data.encoding import ChatEncoder, Encoded, trained_spans
from tuneyard.data.report import Bin, DataReport

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

OPEN, CLOSE = "«", "»"

_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN_PROBLEMS = 50


def report_table(report: DataReport, *, max_problems: int | None = _SHOWN_PROBLEMS) -> RenderableType:
    """Lay a report out: counts, the histogram of lengths, the longest rows, then the problems.

    Args:
        report: What `check` found.
        max_problems: The most problems to list; None for all that the report holds.

    Returns:
        A renderable; every fact in it is text, colour only underlines.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_counts(report)]
    if report.histogram:
        parts += [Text("\nTokens per row", style="bold"), _histogram(report), _longest(report)]
    parts += [Text(note, style="yellow") for note in _notes(report)]
    parts += _problems(report, max_problems)
    return Group(*parts)


def conversation_text(encoder: ChatEncoder, conversation: Conversation) -> Text:
    """Show a conversation as the model reads it, with what it learns marked.

    Learnt tokens stand green between « and », special tokens are bold; the rest is dim.

    Args:
        encoder: With the template and the limits of the training.
        conversation: The row to show.

    Returns:
        The text, ending without a newline, each sequence under a line of its own; one line says so where one is dropped
        or cut.

    Raises:
        InvalidDataError: Where the row can't be encoded.
    """
    from rich.text import Text

    sequences = encoder.encode(conversation)
    many = len(sequences)
    names = [
        conversation.where if many == 1 else f"{conversation.where} ({one} of {many})" for one in range(1, many + 1)
    ]
    texts = [_sequence_text(encoder, each, name) for name, each in zip(names, sequences, strict=True)]
    return Text("\n").join(texts)


def _sequence_text(encoder: ChatEncoder, encoded: Encoded, name: str) -> Text:
    from rich.text import Text

    if encoded.dropped:
        return Text(f"{name}: dropped, {_too_long(encoded.length, encoder.max_length)}", style="yellow")
    trained = sum(encoded.loss_mask)
    text = Text(f"{name}: {len(encoded.input_ids)} tokens, {trained} in the loss\n", style="bold")
    decoded = _Decoded(encoder, encoded.input_ids)
    for start, end in trained_spans(encoded.loss_mask):
        decoded.append_to(text, start, "dim")
        text.append(OPEN, style="green")
        decoded.append_to(text, end, "green")
        text.append(CLOSE, style="green")
    decoded.append_to(text, len(encoded.input_ids), "dim")
    text.rstrip()
    if encoded.truncated:
        text.append(f"\n(cut here: {_too_long(encoded.length, encoder.max_length)})", style="yellow")
    return text


class _Decoded:
    """Decodes ids from left to right, each stretch as it reads after all before it (alone, its first space may go)."""

    def __init__(self, encoder: ChatEncoder, ids: list[int]) -> None:
        self._tokenizer: Any = encoder.tokenizer
        self._special = set(self._tokenizer.all_special_ids)
        self._ids = ids
        self._done = 0
        self._text = ""

    def append_to(self, text: Text, end: int, style: str) -> None:
        """Append what stands before index `end` and isn't appended yet; special tokens bold."""
        while self._done < end:
            special = self._ids[self._done] in self._special
            stop = self._done + 1
            while not special and stop < end and self._ids[stop] not in self._special:
                stop += 1
            before, self._text = self._text, self._tokenizer.decode(self._ids[:stop])
            text.append(printable(self._text[len(before) :], keep="\n\t"), style=f"bold {style}" if special else style)
            self._done = stop


def _too_long(length: int, limit: int | None) -> str:
    return f"{length} tokens where {limit} are allowed"


def _counts(report: DataReport) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    limit = f"longer than {report.max_length} tokens" if report.max_length else "no limit"
    share = f"{100 * report.trained_tokens / report.tokens:.0f} % of the tokens" if report.tokens else ""
    turns = ", ".join(f"{rows:,} with {answers}" for answers, rows in report.turns.items())
    roles = ", ".join(f"{number:,} {role}" for role, number in report.messages.items())
    for name, number, remark in (
        ("rows", report.rows, ", ".join(report.files)),
        ("kept", report.kept, f"{report.truncated:,} of them truncated" if report.truncated else ""),
        ("dropped", report.dropped, limit),
        ("bad", report.bad, "can't be used" if report.bad else ""),
        ("duplicates", report.duplicates, "equal to an earlier row"),
        ("messages", sum(report.messages.values()), roles),
        ("answers", sum(answers * rows for answers, rows in report.turns.items()), f"rows: {turns}" if turns else ""),
        ("tokens", report.tokens, "in the kept rows"),
        ("in the loss", report.trained_tokens, share),
    ):
        table.add_row(name, f"{number:,}", remark)
    return table


def _histogram(report: DataReport) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for justify in ("right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    most = max(part.rows for part in report.histogram)
    for part in report.histogram:
        over = report.max_length is not None and part.least > report.max_length
        table.add_row(_range(part), bar(part.rows, most), f"{part.rows:,}", style="yellow" if over else "")
    return table


def _range(part: Bin) -> str:
    return f"{part.least:,}–{part.most:,}"


def bar(amount: int, most: int, width: int = _BAR_WIDTH) -> str:
    """Return a bar of block characters, exact to an eighth; anything above 0 shows at least the thinnest.

    Args:
        amount: How long the bar is, in units of `most`.
        most: What a full bar stands for; above 0.
        width: Of a full bar, in characters.
    """
    eighths = max(round(8 * width * amount / most), 1 if amount else 0)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def _longest(report: DataReport) -> RenderableType:
    from rich.text import Text

    lines = [f"median {report.median_length:,}, 90 % within {report.p90_length:,}, longest {report.longest_length:,}"]
    lines += [f"  {row.tokens:>7,}  {row.where}" for row in report.longest]
    return Text("\n".join(lines), style="dim")


def _notes(report: DataReport) -> list[str]:
    notes: list[str] = []
    if report.unused_fields:
        fields = ", ".join(f"{name} ({rows:,} rows)" for name, rows in report.unused_fields.items())
        notes.append(f"\nFields that nothing reads: {fields}")
    if report.special_tokens_in_text:
        tokens = ", ".join(f"{token} ({rows:,} rows)" for token, rows in report.special_tokens_in_text.items())
        notes.append(f"\nSpecial tokens written out in messages, which the model takes for real ones: {tokens}")
    if report.several:
        left_out = f"; {report.left_out:,} more are too long and left out" if report.left_out else ""
        notes.append(
            f"\nRows that became several sequences ({report.several:,} rows): the template renders earlier turns "
            "otherwise, so each answer is learnt after the very prompt that a server makes. There are "
            f"{report.sequences:,} sequences of {report.kept:,} rows, and a step counts sequences{left_out}"
        )
    if report.apart:
        notes.append(
            f"\nAnswers that the tokenizer would join with the prompt's end ({report.apart:,} rows): tokenised apart, "
            "as the model has to write them; spaces at an answer's beginning are the usual cause"
        )
    return notes


def _problems(report: DataReport, max_problems: int | None) -> list[RenderableType]:
    from rich.text import Text

    if not report.problem_count:
        return [Text("\nNo problems.", style="green")]
    shown = report.problems[:max_problems]
    parts: list[RenderableType] = [Text(f"\nProblems: {report.problem_count:,}", style="bold red")]
    parts += [Text(f"  {problem}") for problem in shown]
    if len(shown) < report.problem_count:
        parts.append(Text(f"  … and {report.problem_count - len(shown):,} more", style="red"))
    return parts
