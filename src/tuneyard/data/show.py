"""Reports and conversations formatted for a terminal, readable without colour too.

Returns rich renderables and prints nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneyard.data.conversations import Conversation, Preference, printable
from tuneyard.data.encoding import ChatEncoder
from tuneyard.data.report import Bin, DataReport
from tuneyard.data.segments import Example, examples_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

OPEN, CLOSE = "«", "»"

_BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_SHOWN_PROBLEMS = 50
_SHOWN_PAIRS = 10
_SHOWN_TEXTS = 10


def report_table(report: DataReport, *, max_problems: int | None = _SHOWN_PROBLEMS) -> RenderableType:
    """Lay a report out: counts, the histogram of lengths, the longest rows, then the problems.

    Args:
        report: What `check` found.
        max_problems: The most problems to list; None for all that the report holds.

    Returns:
        A renderable; every fact in it is text, colour is only emphasis.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_counts(report)]
    if report.histogram:
        parts += [Text("\nTokens per row", style="bold"), _histogram(report), _longest(report)]
    parts += [Text(f"\n{note}", style="yellow") for note in notes(report)]
    parts += _special(report)
    parts += _duplicates(report)
    parts += _problems(report, max_problems)
    return Group(*parts)


def conversation_text(encoder: ChatEncoder, row: Conversation | Preference) -> Text:
    """Show a row as the model reads it, with the trained parts marked.

    Trained tokens are green between « and », special tokens are bold; the rest is dim.

    Args:
        encoder: The encoder, with the template and the limits of the training.
        row: The row to show.

    Returns:
        The text, without a newline at the end, each sequence under its own heading; a line notes where one is dropped
        or truncated.

    Raises:
        InvalidDataError: If the row can't be encoded.
    """
    from rich.text import Text

    return Text("\n").join(_example_text(example, encoder.max_length) for example in examples_of(encoder, row))


def _example_text(example: Example, limit: int | None) -> Text:
    from rich.text import Text

    if example.fate == "dropped":
        return Text(f"{example.name}: dropped, {_too_long(example.length, limit)}", style="yellow")
    text = Text(f"{example.name}: {example.tokens} tokens, {example.trained_tokens} in the loss\n", style="bold")
    trained = False
    for segment in example.segments:
        if segment.learnt != trained:
            text.append(OPEN if segment.learnt else CLOSE, style="green")
            trained = segment.learnt
        style = "green" if trained else "dim"
        text.append(printable(segment.text, keep="\n\t"), style=f"bold {style}" if segment.special else style)
    if trained:
        text.append(CLOSE, style="green")
    text.rstrip()
    if example.fate == "truncated":
        text.append(f"\n(truncated here: {_too_long(example.length, limit)})", style="yellow")
    return text


def _too_long(length: int, limit: int | None) -> str:
    return f"{length} tokens, and {limit} are allowed"


def _counts(report: DataReport) -> RenderableType:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, number, remark in count_rows(report):
        table.add_row(name, f"{number:,}", remark)
    return table


def count_rows(report: DataReport) -> list[tuple[str, int, str]]:
    """Return the counts of a report for people: a name, a number and a remark each."""
    limit = f"longer than {report.max_length} tokens" if report.max_length else "no limit"
    share = f"{100 * report.trained_tokens / report.tokens:.0f} % of the tokens" if report.tokens else ""
    turns = ", ".join(f"{rows:,} with {answers}" for answers, rows in report.turns.items())
    roles = ", ".join(f"{number:,} {role}" for role, number in report.messages.items())
    reasons = ", ".join(f"{rows:,} {name.replace('_', ' ')}" for name, rows in report.dropped_for.items())
    files = ", ".join(f"{file} ({format})" for file, format in report.formats.items())
    if report.validation_rows:
        files += f"; {report.validation_rows:,} validation rows"
    shortened = f"{report.truncated:,} of them truncated" if report.truncated else ""
    if report.cut_answers or report.lost_answers:
        shortened += f" ({report.cut_answers:,} inside an answer; {report.lost_answers:,} whole answers lost)"
    bad = f"can't be used; {report.refused:,} of them refused by the values" if report.refused else "can't be used"
    special = ", ".join(f"{token} in {rows:,}" for token, rows in report.special_tokens_in_text.items())
    near = f"{report.near_duplicates:,} more are nearly equal to one"
    found: list[tuple[str, int, str] | None] = [
        ("rows", report.rows, files),
        ("kept", report.kept, shortened),
        ("dropped", report.dropped, reasons or limit),
        ("bad", report.bad, bad if report.bad else ""),
        ("duplicates", report.duplicates, f"equal to an earlier row; {near}"),
        ("leaked", report.leaked, f"equal to a validation row; {report.near_leaked:,} more are nearly equal to one")
        if report.validation_rows
        else None,
        ("special tokens", report.special_token_rows, f"rows with special tokens in their texts: {special}")
        if special
        else None,
        ("with tools", report.tool_rows, "available tools, or calls of them") if report.tool_rows else None,
        ("messages", sum(report.messages.values()), roles),
        ("answers", sum(answers * rows for answers, rows in report.turns.items()), f"rows: {turns}" if turns else ""),
        ("tokens", report.tokens, "in the kept rows"),
        ("in the loss", report.trained_tokens, share),
    ]
    return [each for each in found if each is not None]


def special_tokens_line(report: DataReport) -> str:
    """Describe in one line the rows with special tokens in their texts; there is at least one."""
    tokens = ", ".join(f"{token} in {rows:,}" for token, rows in report.special_tokens_in_text.items())
    rows = f"{report.special_token_rows:,} of {report.rows:,} rows of {', '.join(report.files)}"
    return f"{rows} have special tokens in their texts ({tokens}; first: {report.special_texts[0].where})"


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
        amount: The amount to show.
        most: The amount of a full bar; above 0.
        width: The width of a full bar, in characters.
    """
    eighths = max(round(8 * width * amount / most), 1 if amount else 0)
    whole, part = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[part] if part else "")


def _longest(report: DataReport) -> RenderableType:
    from rich.text import Text

    lines = [f"median {report.median_length:,}, 90 % within {report.p90_length:,}, longest {report.longest_length:,}"]
    lines += [f"  {row.tokens:>7,}  {row.where}" for row in report.longest]
    return Text("\n".join(lines), style="dim")


def notes(report: DataReport) -> list[str]:
    """Return notices about the data besides its counts and problems, a paragraph each."""
    notes: list[str] = []
    if report.unused_fields:
        fields = ", ".join(f"{name} ({rows:,} rows)" for name, rows in report.unused_fields.items())
        notes.append(f"Unused fields: {fields}")
    if report.several:
        left_out = f"; {report.left_out:,} more are too long and dropped" if report.left_out else ""
        notes.append(
            f"Rows of several sequences ({report.several:,} rows): the template renders earlier turns differently, so "
            "each answer is trained after exactly the prompt that a server renders. There are "
            f"{report.sequences:,} sequences of {report.kept:,} rows, and a step counts sequences{left_out}"
        )
    if report.apart:
        notes.append(
            f"Answers that the tokenizer would merge with the prompt's end ({report.apart:,} rows): tokenised "
            "separately, as the model generates them; the usual cause is an answer that begins with a space"
        )
    return notes


def _special(report: DataReport) -> list[RenderableType]:
    from rich.text import Text

    if not report.special_texts:
        return []
    lines = ["\nSpecial tokens in texts, which the model reads as control tokens"]
    shown = report.special_texts[:_SHOWN_TEXTS]
    lines += [f"  {one.where}: {one.token} in {one.part} ({one.role}): {one.text}" for one in shown]
    total = f"{report.special_token_rows:,} rows in all"
    lines.append(f"  {total}; keep, drop or refuse them: data_conf.rows.special_tokens")
    return [Text("\n".join(lines), style="yellow")]


def _duplicates(report: DataReport) -> list[RenderableType]:
    from rich.text import Text

    if not report.pairs:
        return []
    lines = ["\nEqual and nearly equal rows"]
    for pair in report.pairs[:_SHOWN_PAIRS]:
        how = "equal to" if pair.similarity == 1 else f"{pair.similarity:.0%} like"
        lines.append(f"  {pair.where}: {how} {pair.other}{', a validation row' if pair.leaks else ''}")
    total = report.duplicates + report.near_duplicates + report.leaked + report.near_leaked
    if total > _SHOWN_PAIRS:
        lines.append(f"  … and {total - _SHOWN_PAIRS:,} more")
    return [Text("\n".join(lines), style="yellow")]


def _problems(report: DataReport, max_problems: int | None) -> list[RenderableType]:
    from rich.text import Text

    if not report.problem_count:
        return [Text("\nNo other problems." if report.special_token_rows else "\nNo problems.", style="green")]
    shown = report.problems[:max_problems]
    parts: list[RenderableType] = [Text(f"\nProblems: {report.problem_count:,}", style="bold red")]
    if len(report.reasons) < report.problem_count:
        parts += [Text(f"  {rows:>7,}  {reason}", style="red") for reason, rows in report.reasons.items()]
    parts += [Text(f"  {problem}") for problem in shown]
    if len(shown) < report.problem_count:
        parts.append(Text(f"  … and {report.problem_count - len(shown):,} more", style="red"))
    return parts
