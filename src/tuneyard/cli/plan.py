"""`tuneyard plan`."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

from typer import Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.estimate import Estimate
    from tuneyard.runners import Forecast

_PARTS = {
    "runtime": "programs and libraries",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "activations": "activations",
    "logits": "logits and loss",
    "heap": "freed, kept by the heap",
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
        bool, Option("--inside", help="kubernetes: read model and data in a short-lived pod in the cluster.")
    ] = False,
    check: Annotated[bool, Option("--check", help="Exit 8 if it would not start now.")] = False,
    json: o.Json = False,
) -> None:
    """Estimate a finetuning run before it is launched: parameters, memory, steps, time, disk, and whether it fits.

    Nothing is started or written, except for the short-lived pod of --inside. Exit 3 if it can never run. An
    estimate needs torch: if it is not installed here, --on kubernetes uses a pod, and other plans exit with 4.
    """
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output
    from tuneyard.errors import InvalidValuesError, UnavailableError

    out = Output(json)
    chosen = client(on, context, namespace, store)
    forecast = chosen.plan(*(values or ()), set=set_ or (), name=name, inside=inside)
    out.data(forecast.to_dict(), _text(forecast))
    verdict = forecast.verdict
    if verdict.fits == "never":
        raise InvalidValuesError(verdict.sentence, hint=verdict.hint)
    if check and verdict.fits == "not now":
        raise UnavailableError(verdict.sentence, hint=verdict.hint)


def _text(forecast: Forecast) -> str:
    rows = [(finding.place, finding.sentence) for finding in forecast.findings]
    verdict = fill(forecast.verdict.sentence, 80)
    return "\n\n".join(part for part in (_estimate(forecast.estimate), _facts(rows), verdict) if part)


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "\n".join(fill(text, 80, initial_indent=f"{what:<11} ", subsequent_indent=" " * 12) for what, text in rows)


def _estimate(estimate: Estimate) -> str:
    from tuneyard.cli._output import duration, table
    from tuneyard.estimate import gib

    share = estimate.trained / estimate.parameters
    work, sizes, disk = estimate.work, estimate.sizes, estimate.disk
    steps = "unknown" if work.steps is None else f"{work.steps:,}"
    lines = [
        ("parameters", f"{estimate.parameters:,}, trained {estimate.trained:,} ({share:.2%})"),
        ("a step", f"{sizes.total} conversations: {estimate.processes} x {sizes.per_device} x {sizes.accumulation}"),
        ("steps", steps),
    ]
    if work.rows is not None:
        lines.append(("an epoch", f"{work.rows:,} conversations, {work.tokens_per_epoch:,} tokens"))
        lines.append(("", f"{work.trained_tokens_per_epoch:,} of them in the loss"))
    if estimate.seconds is not None:
        lines.append(("time", f"about {duration(estimate.seconds)}"))
    lines.append(("", estimate.how))
    lines.append(("disk", f"base model {gib(disk.downloads)}, a checkpoint {gib(disk.checkpoint)}"))
    lines.append(("", f"in the store: checkpoints {gib(disk.checkpoints)}, final {gib(disk.final + disk.merged)}"))
    lines += [("note", note) for note in estimate.notes]
    memory = [
        (words, gib(getattr(estimate.memory, part))) for part, words in _PARTS.items() if getattr(estimate.memory, part)
    ]
    each = "" if estimate.processes == 1 else f", for each of {estimate.processes} processes"
    memory.append((f"peak, in the {estimate.memory.moment} pass{each}", gib(estimate.memory.total)))
    return f"{_facts(lines)}\n\n{table(('memory', ''), memory)}"
