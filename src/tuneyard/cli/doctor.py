"""`tuneyard doctor` and `tuneyard doctor store`: whether everything is there, and what to do where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Context, Exit, Option, Typer

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.diagnosis import Report

app = Typer(rich_markup_mode=None)

KubeContext = Annotated[str | None, Option("--context", metavar="NAME", help="The context of the kubeconfig.")]
Namespace = Annotated[str | None, Option("--namespace", "-n", metavar="NAME", help="The namespace to look at.")]
Quick = Annotated[bool, Option("--quick", help="Start no pod in the cluster.")]
Bucket = Annotated[str, Option("--bucket", metavar="NAME", help="The bucket to write into.")]
Rounds = Annotated[int, Option("--rounds", min=1, help="How often 32 conditional writes contend.")]


@app.callback(invoke_without_command=True)
def doctor(
    context: Context,
    on: o.On = "local",
    kube_context: KubeContext = None,
    namespace: Namespace = None,
    values: o.Values = None,
    set_values: o.Set = None,
    store: o.Store = None,
    bucket: Bucket = "default-bucket",
    quick: Quick = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Look whether everything that a target needs is there, and say what to do where it is not.

    Exit 0 without a problem; else the code of the worst: 8 unreachable, 5 denied, 7 damaged, 4 missing, 6, 3, 2, 1.
    """
    if context.invoked_subcommand:
        return
    from pathlib import Path

    from tuneyard.cli._output import Output
    from tuneyard.errors import UsageError

    out = Output(json, quiet)
    if on == "local":
        from tuneyard.diagnosis import check_local

        if given := [name for name, value in _of_a_cluster(kube_context, namespace, values, set_values) if value]:
            raise UsageError(f"{' and '.join(given)} needs --on kubernetes.", hint="tuneyard doctor --on kubernetes")
        found = check_local(store=store, bucket=bucket, progress=lambda name: out.say(f"looking at {name}"))
    else:
        from tuneyard.diagnosis import check_kubernetes

        if store:
            raise UsageError(
                "--store is for this machine; on a cluster the values name the store.",
                hint="tuneyard doctor --on kubernetes -f values.yaml",
            )

        found = check_kubernetes(
            context=kube_context,
            namespace=namespace,
            files=[Path(file) for file in values or ()],
            sets=set_values or (),
            bucket=bucket,
            quick=quick,
            progress=lambda name: out.say(f"looking at {name}"),
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
    """Try out what resuming relies on, on a real store, and name the mode it would be used in.

    It writes below a prefix of its own, .tuneyard-doctor/, and removes it in the end.
    """
    from tuneyard.cli._output import Output
    from tuneyard.diagnosis import probe_store

    out = Output(json, quiet)
    _end(out, probe_store(store, bucket=bucket, rounds=rounds, progress=lambda name: out.say(f"trying {name}")))


def _of_a_cluster(
    context: str | None, namespace: str | None, values: list[str] | None, sets: list[str] | None
) -> list[tuple[str, object]]:
    return [("--context", context), ("--namespace", namespace), ("--values", values), ("--set", sets)]


def _end(out: object, found: Report) -> None:
    from tuneyard.cli._output import Output
    from tuneyard.diagnosis import format_report

    assert isinstance(out, Output)
    out.data(found.to_dict(), format_report(found))
    if found.exit_code:
        raise Exit(found.exit_code)
