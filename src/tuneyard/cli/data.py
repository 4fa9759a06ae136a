"""`tuneyard data check` and `tuneyard data show`: data as training would see it, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from rich.text import Text

    from tuneyard.data import Format

_EXAMPLES = 6
# Those of `tuneyard.data`, which is slow to import.
_FORMATS: tuple[Format, ...] = ("messages", "sharegpt", "prompt-completion", "alpaca", "preference")

app = Typer(no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[
    list[str] | None,
    Argument(metavar="[FILE]...", help="Local files, or keys of the store. By default the datasets of the values."),
]
Model = Annotated[
    str | None,
    Option(
        "--model",
        metavar="MODEL",
        help="The model with the tokenizer: a folder, or a key of the store. By default that of the values.",
    ),
]


RowFormat = Annotated[
    str | None,
    Option("--format", metavar="FORMAT", help=f"The format of the rows: {', '.join(_FORMATS)}. By default detected."),
]


@app.command()
def check(
    files: Files = None,
    model: Model = None,
    validation: Annotated[
        list[str] | None,
        Option(
            "--validation", metavar="FILE", help="Validation data; rows that it shares with other files are reported."
        ),
    ] = None,
    format: RowFormat = None,
    values: o.Values = None,
    set_: o.Set = None,
    store: o.Store = None,
    html: Annotated[
        Path | None, Option("--html", metavar="FILE", help="Also write the report as an HTML page with examples.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check every row: problems with their place, counts, and a histogram of lengths. Exit 3 if rows are bad."""
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output
    from tuneyard.data import report_page, report_table
    from tuneyard.errors import InvalidDataError

    out = Output(json, quiet)
    found = client("local", store=store).check_data(
        *(files or ()),
        model=model,
        validation=validation or (),
        format=_format(format),
        files=values or (),
        set=set_ or (),
        examples=_EXAMPLES if html or json else 0,
    )
    report = found.report
    if html:
        html.write_text(report_page(report), encoding="utf-8")
        out.note(f"The report is in '{html}'.")
    out.data({"report": report.to_json()}, None if quiet else report_table(report))
    if not found.trainable:
        bad = f"{report.problem_count} problems" if report.problem_count != 1 else "1 problem"
        raise InvalidDataError(
            f"{report.kept} of {report.rows} rows can be trained on; {bad} found."
            if report.problem_count
            else f"None of the {report.rows} rows can be trained on.",
            hint="Correct the rows listed above, and check again.",
        )


@app.command()
def show(
    files: Files = None,
    model: Model = None,
    format: RowFormat = None,
    values: o.Values = None,
    set_: o.Set = None,
    store: o.Store = None,
    count: Annotated[int, Option("--count", "-n", min=1, help="The number of rows to show.")] = 3,
    skip: Annotated[int, Option("--skip", min=0, help="The number of rows to skip first.")] = 0,
    json: o.Json = False,
) -> None:
    """Show conversations as the model reads them, with the trained parts between « and »."""
    from rich.console import Group

    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output

    shown = client("local", store=store).show_data(
        *(files or ()),
        model=model,
        format=_format(format),
        files=values or (),
        set=set_ or (),
        count=count,
        skip=skip,
    )
    document = {"conversations": [row.document for row in shown]}
    Output(json).data(document, Group(*_apart([row.text for row in shown])))


def _format(name: str | None) -> Format | None:
    from tuneyard.errors import UsageError

    if name is None or name == "auto":
        return None
    for known in _FORMATS:
        if name == known:
            return known
    raise UsageError(f"There is no format {name!r}.", hint=f"Use one of {', '.join(_FORMATS)}, or omit --format.")


def _apart(texts: list[Text]) -> list[Text | str]:
    return [part for text in texts for part in (text, "")][:-1]
