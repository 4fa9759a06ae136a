"""`tuneyard plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.estimate import Estimate

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
    check: Annotated[bool, Option("--check", help="Exit 8 where it does not fit now, or never.")] = False,
    json: o.Json = False,
) -> None:
    """Estimate a finetuning run before it is launched: parameters, memory, steps, time, disk, and whether it fits.

    On this machine. Nothing is started and nothing written.
    """
    from dataclasses import asdict
    from textwrap import fill

    from tuneyard.cli._output import Output
    from tuneyard.errors import UnavailableError
    from tuneyard.estimate import estimate, fits_here
    from tuneyard.runs.plans import Sources, load_finetune_values, store_of

    sources = Sources(values or (), set_ or (), None, name, store)
    resolved = load_finetune_values(sources)
    told = estimate(resolved, store_of(sources))
    verdict = fits_here(told.memory_of_all, accelerators=bool(resolved.gpuResource))
    Output(json).data(
        {"estimate": told.to_json(), "verdict": asdict(verdict)}, f"{_text(told)}\n\n{fill(verdict.sentence, 80)}"
    )
    if check and verdict.fits in ("never", "not now"):
        raise UnavailableError(
            verdict.sentence, hint="Make it smaller: max_per_device_train_batch_size, or an adapter."
        )


def _text(told: Estimate) -> str:
    from textwrap import fill

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
    facts = "\n".join(fill(text, 80, initial_indent=f"{what:<11} ", subsequent_indent=" " * 12) for what, text in lines)
    return f"{facts}\n\n{table(('memory', ''), memory)}"
