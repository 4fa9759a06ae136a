"""`tuneyard serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.runners import RunInfo


def serve(
    run: Annotated[str | None, Argument(metavar="[RUN]", help="A finished finetuning run.")] = None,
    values: o.Values = None,
    set_: o.Set = None,
    name: o.Name = None,
    store: o.Store = None,
    merged: o.Merged = False,
    port: o.Port = None,
    on: o.On = "local",
    context: o.KubeContext = None,
    namespace: o.Namespace = None,
    dry_run: o.DryRun = False,
    detach: o.Detach = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Serve a finetuned model on an OpenAI-compatible endpoint.

    The server outlives this terminal; `tuneyard stop` ends it.
    """
    from tuneyard.cli._client import client
    from tuneyard.cli._launching import launch, show_plan
    from tuneyard.cli._output import Output
    from tuneyard.runners import Sources, plan_serve, wait_until_ready

    out = Output(json, quiet)
    runner = client(on, context, namespace).runner
    sources = Sources(values or (), set_ or (), None, name, store)
    plan = plan_serve(sources, runner, run=run, merged=merged, port=port)
    if dry_run:
        show_plan(plan, runner, out)
        return
    info = launch(plan, runner, out)
    if not detach:
        out.note("Waiting until the server answers. Ctrl-C does not stop it.")
        info = wait_until_ready(runner, info.key, notify=out.note)
    out.data({"run": info.to_dict()}, _endpoint(info, runner.options))


def _endpoint(info: RunInfo, options: str) -> str:
    key = f"in {info.api_key_file}" if info.api_key_file else "none"
    if info.api_key_secret:
        key = f"in the Secret {info.api_key_secret}"
    rows = [("endpoint", info.url or ""), ("key", key)]
    rows += [("chat", f"tuneyard chat {info.name}{options}"), ("stop", f"tuneyard stop {info.key}{options}")]
    return "\n".join(f"{label:<9} {text}" for label, text in rows)
