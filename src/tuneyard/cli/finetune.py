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

    Launched again, it goes on from its newest checkpoint. Ctrl-C leaves the run alone.
    """
    from tuneyard.cli._carry import carry_out, show_plan
    from tuneyard.cli._output import Output
    from tuneyard.runners.plans import Sources, plan_finetune
    from tuneyard.runners.targets import runner_for

    out = Output(json, quiet)
    runner = runner_for(on, context=context, namespace=namespace)
    plan = plan_finetune(Sources(values or (), set_ or (), None, name, store), runner, dry_run=dry_run)
    if dry_run:
        show_plan(plan, runner, out)
        return
    carry_out(plan, runner, out, detach=detach, after=f"Serve it: tuneyard serve {plan.launch.key.name}{runner.words}")
