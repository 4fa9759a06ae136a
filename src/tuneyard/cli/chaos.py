"""`tuneyard chaos`: kill, damage and contend on the user's own store, and tell whether anything was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.chaos import Report

Trials = Annotated[int, Option("--trials", min=1, help="How many trials of each kind.")]
Seed = Annotated[int, Option("--seed", help="The same seed makes the same trials.")]
Bucket = Annotated[str, Option("--bucket", metavar="NAME", help="The bucket to write into.")]


def chaos(
    store: o.Store = None,
    bucket: Bucket = "default-bucket",
    trials: Trials = 10,
    seed: Seed = 1,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Kill trainings, damage files and let two writers contend, on a real store: does anything get lost?

    It trains a tiny model of its own, below a prefix of its own, .tuneyard-chaos/, touches nothing else, and removes
    it in the end. Exit 7 where a training did not go on, not with the same numbers, or with damage that nobody told.
    """
    from tuneyard.chaos import FOLDER, run_chaos
    from tuneyard.cli._output import Output
    from tuneyard.errors import IntegrityError

    out = Output(json, quiet)
    out.say(f"trials write below {bucket}/{FOLDER}/ alone, and remove it in the end; seed {seed}")

    def tell(kind: str, done: int, all_of_them: int) -> None:
        if done == all_of_them or done % 10 == 0:
            out.say(f"{kind}: {done} of {all_of_them}")

    found = run_chaos(store, bucket=bucket, trials=trials, seed=seed, progress=tell)
    out.data(found.to_dict(), _told(found))
    if found.wrong:
        more = f" (and {len(found.wrong) - 1} more)" if len(found.wrong) > 1 else ""
        raise IntegrityError(
            f"{found.wrong[0].rstrip('.')}{more}.",
            hint=f"See whether the store keeps its promises: tuneyard doctor store --store {found.store}",
            wrong=found.wrong,
        )


def _told(found: Report) -> str:
    from tuneyard.cli._output import table

    def cell(number: int | None) -> str:
        return "-" if number is None else str(number)

    rows = [
        [
            one.kind,
            str(one.trials),
            cell(one.resumed),
            cell(one.bit_equal),
            cell(one.on_its_way),
            cell(one.steps_lost),
            cell(one.caught),
            one.skipped or (f"{len(one.wrong)} wrong" if one.wrong else "as promised"),
        ]
        for one in found.outcomes
    ]
    lines = [
        table(
            ["TRIAL", "TRIALS", "RESUMED", "BIT-EQUAL", "KILLED ON ITS WAY", "STEPS LOST AT MOST", "CAUGHT", ""], rows
        )
    ]
    lines += [f"wrong: {sentence}" for sentence in found.wrong]
    lines.append(f"{found.store}: nothing is left below {found.prefix}/")
    return "\n".join(lines)
