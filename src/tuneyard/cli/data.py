"""`tuneyard data check` and `tuneyard data show`: data as training would see it, before any training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from rich.text import Text

    from tuneyard.cli._datasource import DataSource
    from tuneyard.data import Conversation

_CHECK = "See every row: tuneyard data check with the same arguments"

app = Typer(no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[
    list[str] | None,
    Argument(metavar="[FILE]...", help="Files here, or keys of the store. The datasets of the values if left out."),
]
Model = Annotated[
    str | None,
    Option(
        "--model", metavar="MODEL", help="Whose tokenizer: a folder, or a key of the store. The values' if left out."
    ),
]


@app.command()
def check(
    files: Files = None,
    model: Model = None,
    values: o.Values = None,
    set_: o.Set = None,
    store: o.Store = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check every row: what is wrong and where, counts, and a histogram of lengths. Exit 3 where rows are bad."""
    from tuneyard.cli._datasource import open_source
    from tuneyard.cli._output import Output
    from tuneyard.data import check as check_rows
    from tuneyard.data import report_table
    from tuneyard.errors import InvalidDataError
    from tuneyard.progress import progress_bar

    out = Output(json, quiet)
    with open_source(files or (), model, values or (), set_ or (), store) as source:
        if quiet:
            report = check_rows(source.paths, source.encoder)
        else:
            with progress_bar("checking rows", None) as advance:
                report = check_rows(source.paths, source.encoder, advance=advance)
        out.data({"report": report.to_json()}, None if quiet else report_table(report))
    if report.problem_count or not report.kept:
        bad = f"{report.problem_count} problems" if report.problem_count != 1 else "1 problem"
        raise InvalidDataError(
            f"{report.kept} of {report.rows} rows can be trained on; {bad} found."
            if report.problem_count
            else f"None of the {report.rows} rows can be trained on.",
            hint="Mend the rows listed above, and check again.",
        )


@app.command()
def show(
    files: Files = None,
    model: Model = None,
    values: o.Values = None,
    set_: o.Set = None,
    store: o.Store = None,
    count: Annotated[int, Option("--count", "-n", min=1, help="How many conversations.")] = 3,
    skip: Annotated[int, Option("--skip", min=0, help="How many to pass over first.")] = 0,
    json: o.Json = False,
) -> None:
    """Show conversations as the model reads them, with what it learns between « and »."""
    from itertools import islice

    from rich.console import Group

    from tuneyard.cli._datasource import open_source
    from tuneyard.cli._output import Output
    from tuneyard.data import Conversation, conversation_text, read_rows
    from tuneyard.errors import InvalidDataError, Problem

    with open_source(files or (), model, values or (), set_ or (), store) as source:
        rows = list(islice(read_rows(source.paths), skip, skip + count))
        bad = [row for row in rows if isinstance(row, Problem)]
        if bad:
            raise InvalidDataError("Rows that can't be used can't be shown.", hint=_CHECK, problems=bad)
        if not rows:
            names = ", ".join(str(path) for path in source.paths)
            raise InvalidDataError(f"There is no row after the first {skip} of {names}.", hint=_CHECK)
        texts = [conversation_text(source.encoder, row) for row in rows if isinstance(row, Conversation)]
        document = [_document(source, row) for row in rows if isinstance(row, Conversation)] if json else []
    Output(json).data({"conversations": document}, Group(*_apart(texts)))


def _document(source: DataSource, row: Conversation) -> dict[str, Any]:
    names = ("input_ids", "loss_mask", "length", "fate")
    return {
        "where": row.where,
        "messages": [message.as_dict() for message in row.messages],
        "sequences": [{name: getattr(each, name) for name in names} for each in source.encoder.encode(row)],
    }


def _apart(texts: list[Text]) -> list[Text | str]:
    return [part for text in texts for part in (text, "")][:-1]
