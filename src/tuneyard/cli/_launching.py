"""Show a plan, or launch it, follow it and print its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tuneyard.cli._follow import follow
from tuneyard.cli._output import Output
from tuneyard.runners import RunInfo, Runner, raise_if_not_succeeded

if TYPE_CHECKING:
    from tuneyard.runners import Plan


def show_plan(plan: Plan, runner: Runner, out: Output) -> None:
    """Print the resolved values, or the objects for a cluster: YAML for people, one JSON document for programs.

    Args:
        plan: What would run.
        runner: Where it would run.
        out: How this command prints.
    """
    from tuneyard.runners import preview
    from tuneyard.values import dump_yaml

    shown = preview(plan, runner)
    for note in shown.notes:
        out.note(note)
    if shown.manifests:
        import yaml

        text = yaml.safe_dump_all(shown.manifests, sort_keys=False, allow_unicode=True, width=120)
    else:
        text = dump_yaml(plan.launch.values)
    out.data(shown.to_dict(), text.rstrip())


def launch(plan: Plan, runner: Runner, out: Output) -> RunInfo:
    """Print a plan's notices, launch it, and print where its log is.

    Args:
        plan: What to run.
        runner: Where to run it.
        out: How this command prints.

    Returns:
        The run's state.
    """
    for note in plan.notes:
        out.note(note)
    info = runner.launch(plan.launch)
    why = f" ({info.why})" if info.why else ""
    out.note(f"The run '{info.key}' is {info.status}{why}. Its log: tuneyard logs {info.key}{runner.options}")
    return info


def launch_and_follow(plan: Plan, runner: Runner, out: Output, *, detach: bool, after: str = "") -> None:
    """Launch a plan and follow it until it has ended, unless detached.

    Args:
        plan: What to run.
        runner: Where to run it.
        out: How this command prints.
        detach: Whether to return at once.
        after: A note on the next step, printed once it has succeeded.

    Raises:
        RunEndedError: If it did not succeed.
    """
    info = launch(plan, runner, out)
    if not detach:
        info = raise_if_not_succeeded(follow(runner, info.key, out))
    out.data({"run": info.to_dict()}, _result(info))
    if info.status == "succeeded" and after:
        out.note(after)


def _result(info: RunInfo) -> str:
    where = f"{info.store.rstrip('/')}/{info.experiment}" if info.experiment else info.store
    return f"{info.key}  {info.status}  {where}"
