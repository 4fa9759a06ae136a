"""`tuneyard finetune`."""

from __future__ import annotations

from tuneyard.cli import options as o


def finetune(
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
    """Finetune a delivered model on delivered data.

    Launched again, it resumes from its newest checkpoint. Ctrl-C does not stop the run.
    """
    from tuneyard.cli._client import client
    from tuneyard.cli._launching import launch_and_follow, show_plan
    from tuneyard.cli._output import Output
    from tuneyard.runners import Sources, plan_finetune

    out = Output(json, quiet)
    runner = client(on, context, namespace).runner
    plan = plan_finetune(Sources(values or (), set_ or (), None, name, store), runner, dry_run=dry_run)
    if dry_run:
        show_plan(plan, runner, out)
        return
    launch_and_follow(
        plan, runner, out, detach=detach, after=f"Serve it: tuneyard serve {plan.launch.key.name}{runner.options}"
    )
