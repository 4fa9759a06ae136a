"""`tuneyard deliver`."""

from __future__ import annotations

from tuneyard.cli import options as o


def deliver(
    values: o.Values = None,
    set_: o.Set = None,
    name: o.Name = None,
    store: o.Store = None,
    on: o.On = "local",
    context: o.KubeContext = None,
    namespace: o.Namespace = None,
    dry_run: o.DryRun = False,
    detach: o.Detach = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Deliver a model and data to the store, and verify them."""
    from tuneyard.cli._client import client
    from tuneyard.cli._launching import launch_and_follow, show_plan
    from tuneyard.cli._output import Output
    from tuneyard.runners import Sources, plan_deliver

    out = Output(json, quiet)
    runner = client(on, context, namespace).runner
    plan = plan_deliver(Sources(values or (), set_ or (), None, name, store), runner)
    if dry_run:
        show_plan(plan, runner, out)
    else:
        launch_and_follow(plan, runner, out, detach=detach)
