"""`tuneyard values`: what there is to set, from the one tree of models that checks it."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Argument, Typer

app = Typer(no_args_is_help=True, rich_markup_mode=None)

Kind = Annotated[Literal["namespace", "deliver", "finetune", "serve"], Argument(help="Whose values.")]


@app.callback()
def values() -> None:
    """Look at values: what there is to set."""


@app.command()
def schema(kind: Kind) -> None:
    """Print the JSON Schema of a verb's values."""
    from tuneyard import values as models
    from tuneyard.cli._output import Output

    model = {
        "namespace": models.NamespaceValues,
        "deliver": models.DeliverValues,
        "finetune": models.FinetuneValues,
        "serve": models.InferenceValues,
    }[kind]
    Output().document(model.model_json_schema())
