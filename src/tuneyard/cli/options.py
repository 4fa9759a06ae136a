"""Every option and argument of the commands, declared once."""

from __future__ import annotations

from typing import Annotated, Literal

from typer import Argument, Option

Values = Annotated[
    list[str] | None,
    Option("--values", "-f", metavar="FILE", help="A values file (YAML or JSON). Repeatable; later ones win."),
]
Set = Annotated[
    list[str] | None,
    Option("--set", metavar="PATH=VALUE", help="A value, as for Helm. Repeatable; wins over the files."),
]
Name = Annotated[
    str | None, Option("--name", metavar="NAME", help="The run's name. By default derived from the values.")
]
Store = Annotated[
    str | None,
    Option("--store", metavar="URL", help="The object store: ./folder, file:///folder, s3:// or https://host:port."),
]
On = Annotated[Literal["local", "kubernetes"], Option("--on", envvar="TUNEYARD_ON", help="The target to run on.")]
KubeContext = Annotated[
    str | None,
    Option("--context", metavar="NAME", help="kubernetes: the kubeconfig's context. By default its current one."),
]
Namespace = Annotated[
    str | None,
    Option("--namespace", "-n", metavar="NAME", help="kubernetes: the namespace. By default the context's."),
]
DryRun = Annotated[
    bool, Option("--dry-run", help="Print the resolved values (for kubernetes, the manifests), and start nothing.")
]
Detach = Annotated[bool, Option("--detach", "-d", help="Return at once; the run continues.")]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="Print the result only.")]
Yes = Annotated[bool, Option("--yes", "-y", help="Skip the confirmation.")]
Force = Annotated[bool, Option("--force", help="Kill the run if it has not stopped in time.")]
Follow = Annotated[bool, Option("--follow", "-f", help="Follow the log until the run has ended.")]
Merged = Annotated[bool, Option("--merged", help="Serve the run's checkpoint-final-merged.")]
Port = Annotated[
    int | None, Option("--port", min=1, max=65535, help="The port. By default the first free one from 8080.")
]
Timeout = Annotated[float, Option("--timeout", metavar="SECONDS", min=0, help="How long to wait for the run to stop.")]
VerbOption = Annotated[
    Literal["deliver", "finetune", "serve"] | None, Option("--verb", help="Only the runs of this verb.")
]

RunNameOrNone = Annotated[
    str | None, Argument(metavar="[RUN]", help="NAME or VERB/NAME. By default every active finetuning run.")
]
RunName = Annotated[str, Argument(metavar="RUN", help="NAME, or VERB/NAME if several verbs use the name.")]
DeleteData = Annotated[
    bool, Option("--data", help="Also delete what the run has published in the store. This can't be undone.")
]
