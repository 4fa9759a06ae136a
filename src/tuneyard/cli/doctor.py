"""`tuneyard doctor` and `tuneyard doctor store`: check prerequisites, with a hint for each problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option, Typer

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.diagnosis import Report

app = Typer(rich_markup_mode=None)

Quick = Annotated[bool, Option("--quick", help="Start no pods in the cluster.")]
Bucket = Annotated[str, Option("--bucket", metavar="NAME", help="The bucket to write into.")]
Rounds = Annotated[int, Option("--rounds", min=1, help="The number of rounds of 32 concurrent conditional writes.")]


@app.callback(invoke_without_command=True)
def doctor(
    context: Context,
    on: o.On = "local",
    kube_context: o.KubeContext = None,
    namespace: o.Namespace = None,
    values: o.Values = None,
    set_values: o.Set = None,
    store: o.Store = None,
    bucket: Bucket = "default-bucket",
    quick: Quick = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check that a target's prerequisites are in place, with a hint for each problem.

    Exit 0 without a problem; else the code of the worst: 8 unreachable, 5 denied, 7 damaged, 4 missing, 6, 3, 2, 1.
    """
    if context.invoked_subcommand:
        return
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output

    out = Output(json, quiet)
    found = client(on, kube_context, namespace, store).doctor(
        *(values or ()),
        set=set_values or (),
        bucket=bucket,
        quick=quick,
        progress=lambda name: out.note(f"Checking {name}"),
    )
    _end(out, found)


@app.command("store")
def store_command(
    store: o.Store = None,
    bucket: Bucket = "default-bucket",
    rounds: Rounds = 20,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check that a store has the semantics that resuming relies on, and print the mode it would be used in.

    All objects are written below .tuneyard-doctor/ and deleted at the end.
    """
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output

    out = Output(json, quiet)
    found = client("local", store=store).check_store(
        bucket=bucket, rounds=rounds, progress=lambda name: out.note(f"Checking {name}")
    )
    _end(out, found)


def _end(out: object, found: Report) -> None:
    from tuneyard.cli._output import Output
    from tuneyard.diagnosis import format_report

    assert isinstance(out, Output)
    out.data(found.to_dict(), format_report(found))
    if found.exit_code:
        raise Exit(found.exit_code)
