"""`tuneyard data check` and `tuneyard data show`: data as training would see it, before any training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from rich.text import Text

    from tuneyard.cli._datasource import DataSource
    from tuneyard.data import Conversation, Format, Preference

_CHECK = "See every row: tuneyard data check with the same arguments"
_EXAMPLES = 6
# the data room's, which takes a while to import
_FORMATS: tuple[Format, ...] = ("messages", "sharegpt", "prompt-completion", "alpaca", "preference")

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


Shape = Annotated[
    str | None,
    Option(
        "--format", metavar="FORMAT", help=f"The shape of the rows: {', '.join(_FORMATS)}. Told by them if left out."
    ),
]


@app.command()
def check(
    files: Files = None,
    model: Model = None,
    validation: Annotated[
        list[str] | None,
        Option("--validation", metavar="FILE", help="What is validated on: no row of it should be among the others."),
    ] = None,
    format: Shape = None,
    values: o.Values = None,
    set_: o.Set = None,
    store: o.Store = None,
    html: Annotated[
        Path | None, Option("--html", metavar="FILE", help="Also write the report as one HTML page, examples included.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check every row: what is wrong and where, counts, and a histogram of lengths. Exit 3 where rows are bad."""
    from tuneyard.cli._datasource import open_source
    from tuneyard.cli._output import Output
    from tuneyard.data import check as check_rows
    from tuneyard.data import report_page, report_table, silent
    from tuneyard.errors import InvalidDataError
    from tuneyard.progress import progress_bar

    out = Output(json, quiet)
    held = validation or ()
    with open_source(
        files or (), model, values or (), set_ or (), store, validation=held, format=_format(format)
    ) as source:
        config = source.values.finetuning_config
        rules = config.data_conf.rows
        report = check_rows(
            source.paths,
            source.encoder,
            validation=source.validation,
            formats=source.formats,
            names=source.names,
            rows=rules,
            method=config.method,
            examples=_EXAMPLES if html or json else 0,
            progress=silent if quiet else lambda name: progress_bar(name, None),
        )
        if html:
            html.write_text(report_page(report), encoding="utf-8")
            out.say(f"The report is in {html}")
        out.data({"report": report.to_json()}, None if quiet else report_table(report))
    if (report.problem_count if rules.unusable == "refuse" else report.refused) or not report.kept:
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
    format: Shape = None,
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
    from tuneyard.data import conversation_text, read_rows
    from tuneyard.errors import InvalidDataError, Problem

    with open_source(files or (), model, values or (), set_ or (), store, format=_format(format)) as source:
        paths = (*source.paths, *source.validation)
        rows = list(islice(read_rows(paths, source.formats, source.names), skip, skip + count))
        bad = [row for row in rows if isinstance(row, Problem)]
        if bad:
            raise InvalidDataError("Rows that can't be used can't be shown.", hint=_CHECK, problems=bad)
        if not rows:
            names = ", ".join(source.names[path] for path in paths)
            raise InvalidDataError(f"There is no row after the first {skip} of {names}.", hint=_CHECK)
        usable = [row for row in rows if not isinstance(row, Problem)]
        texts = [conversation_text(source.encoder, row) for row in usable]
        document = [_document(source, row) for row in usable] if json else []
    Output(json).data({"conversations": document}, Group(*_apart(texts)))


def _format(word: str | None) -> Format | None:
    from tuneyard.errors import UsageError

    if word is None or word == "auto":
        return None
    for known in _FORMATS:
        if word == known:
            return known
    raise UsageError(f"There is no format {word!r}.", hint=f"Give one of {', '.join(_FORMATS)}, or leave it out.")


def _document(source: DataSource, row: Conversation | Preference) -> dict[str, Any]:
    from tuneyard.data.segments import conversations_of

    names = ("input_ids", "loss_mask", "length", "fate")
    sides = conversations_of(row)
    encoded = {
        side: [{name: getattr(each, name) for name in names} for each in source.encoder.encode(conversation)]
        for side, conversation in sides.items()
    }
    messages = {side: [each.as_dict() for each in conversation.messages] for side, conversation in sides.items()}
    if "" in sides:
        return {"where": row.where, "messages": messages[""], "sequences": encoded[""]}
    return {"where": row.where} | {side: {"messages": messages[side], "sequences": encoded[side]} for side in sides}


def _apart(texts: list[Text]) -> list[Text | str]:
    return [part for text in texts for part in (text, "")][:-1]
