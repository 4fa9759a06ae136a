"""`tuneyard values`: the JSON Schema of values, from the models that validate them."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Argument, Typer

app = Typer(no_args_is_help=True, rich_markup_mode=None)

Kind = Annotated[Literal["namespace", "deliver", "finetune", "serve"], Argument(help="A verb, or the namespace.")]


@app.callback()
def values() -> None:
    """Print the schema of values."""


@app.command()
def schema(kind: Kind) -> None:
    """Print the JSON Schema of a verb's values."""
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output

    Output().document(client("local").schema(kind))
