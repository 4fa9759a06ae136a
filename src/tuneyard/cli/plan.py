"""`tuneyard plan`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

from typer import Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.estimate import Estimate
    from tuneyard.runners.forecast import Forecast

_PARTS = {
    "runtime": "programs and libraries",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits and loss",
    "heap": "freed, not given back",
    "data": "data",
}


def plan(
    values: o.Values = None,
    set_: o.Set = None,
    name: o.Name = None,
    store: o.Store = None,
    on: o.On = "local",
    context: o.KubeContext = None,
    namespace: o.Namespace = None,
    inside: Annotated[
        bool, Option("--inside", help="kubernetes: look at model and data from a short pod in the cluster.")
    ] = False,
    check: Annotated[bool, Option("--check", help="Exit 8 where it would not start now.")] = False,
    json: o.Json = False,
) -> None:
    """Estimate a finetuning run before it is launched: parameters, memory, steps, time, disk, and whether it fits.

    Nothing is started and nothing written, but for the short pod of --inside. Exit 3 where it can never run. An
    estimate needs torch: without it on this machine, --on kubernetes looks from inside, and other plans are exit 4.
    """
    from tuneyard.cli._output import Output
    from tuneyard.errors import InvalidValuesError, UnavailableError
    from tuneyard.runners.forecast import forecast, looks_inside
    from tuneyard.runners.plans import Sources
    from tuneyard.runners.targets import runner_for

    out = Output(json)
    runner = runner_for(on, context=context, namespace=namespace)
    sources = Sources(values or (), set_ or (), None, name, store)
    if inside:
        out.say("looking from inside the cluster, in a short pod")
    elif looks_inside(sources, runner):
        out.say("Looking from inside the cluster, in a short pod, since torch is not installed here.")
    told = forecast(sources, runner, inside=inside)
    out.data(told.to_dict(), _text(told))
    verdict = told.verdict
    if verdict.fits == "never":
        raise InvalidValuesError(verdict.sentence, hint=verdict.hint)
    if check and verdict.fits == "not now":
        raise UnavailableError(verdict.sentence, hint=verdict.hint)


def _text(told: Forecast) -> str:
    rows = [(finding.place, finding.sentence) for finding in told.findings]
    verdict = fill(told.verdict.sentence, 80)
    return "\n\n".join(part for part in (_estimate(told.estimate), _facts(rows), verdict) if part)


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(fill(text, 80, initial_indent=f"{what:<11} ", subsequent_indent=" " * 12) for what, text in rows)


def _estimate(told: Estimate) -> str:
    from tuneyard.cli._output import duration, table
    from tuneyard.estimate.fit import gib

    share = told.trained / told.parameters
    work, sizes, disk = told.work, told.sizes, told.disk
    steps = "unknown" if work.steps is None else f"{work.steps:,}"
    lines = [
        ("parameters", f"{told.parameters:,}, trained {told.trained:,} ({share:.2%})"),
        ("a step", f"{sizes.total} conversations: {told.processes} x {sizes.per_device} x {sizes.accumulation}"),
        ("steps", steps),
    ]
    if work.rows is not None:
        lines.append(("an epoch", f"{work.rows:,} conversations, {work.tokens_per_epoch:,} tokens"))
        lines.append(("", f"{work.trained_tokens_per_epoch:,} of them in the loss"))
    if told.seconds is not None:
        lines.append(("time", f"about {duration(told.seconds)}"))
    lines.append(("", told.how))
    lines.append(("disk", f"base model {gib(disk.downloads)}, a checkpoint {gib(disk.checkpoint)}"))
    lines.append(("", f"in the store: checkpoints {gib(disk.checkpoints)}, final {gib(disk.final + disk.merged)}"))
    lines += [("note", note) for note in told.notes]
    memory = [(words, gib(getattr(told.memory, part))) for part, words in _PARTS.items() if getattr(told.memory, part)]
    each = "" if told.processes == 1 else f", for each of {told.processes} processes"
    memory.append((f"peak, in the {told.memory.moment} pass{each}", gib(told.memory.total)))
    return f"{_facts(lines)}\n\n{table(('memory', ''), memory)}"
