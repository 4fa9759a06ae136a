"""`tuneyard verify` and `tuneyard gc`: what lies in the store, verified byte by byte, and cleaned up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.inventory import Removal, Verified
    from tuneyard.store import Store

Place = Annotated[
    str,
    Argument(
        metavar="KEY|RUN", help="A key (bucket/path) of a run, a model, data or a folder of them; or a run's name."
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="Say what would be removed, and remove nothing.")]
Hours = Annotated[
    float, Option("--older-than", metavar="HOURS", min=0, help="How old a leftover of unfinished work has to be.")
]


def verify(place: Place, store: o.Store = None, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Read everything under a key and compare it with the manifests. Exit 7 where something is damaged."""
    from tuneyard.cli._output import Output
    from tuneyard.errors import IntegrityError
    from tuneyard.inventory import verify_place
    from tuneyard.progress import progress_bar

    out = Output(json, quiet)
    opened, key = _open(place, store)
    if quiet or json:
        found = verify_place(opened, key)
    else:
        with progress_bar("verifying", None) as advance:
            found = verify_place(opened, key, advance=advance)
    out.data(found.to_dict(), _told(found))
    if found.damage:
        first, *others = found.damage
        more = f" (and {len(others)} more)" if others else ""
        raise IntegrityError(
            f"{first.what.rstrip('.')}{more}.",
            hint="Bring it back from a backup of the bucket, or make it again; nothing damaged is ever used.",
            damaged=[one.key for one in found.damage],
        )


def gc(
    place: Place,
    store: o.Store = None,
    older_than: Hours = 24.0,
    dry_run: DryRun = False,
    yes: o.Yes = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Remove what nothing names under a key: what killed trainings and deliveries have left."""
    from datetime import timedelta

    from tuneyard.cli._confirm import confirm_deletion
    from tuneyard.cli._output import Output
    from tuneyard.inventory import remove_leftovers

    out = Output(json, quiet)
    opened, key = _open(place, store)
    grace = timedelta(hours=older_than)
    found = remove_leftovers(opened, key, grace=grace, dry_run=True)
    if found.removed and not dry_run:
        if not yes:
            out.say(_leftovers(found))
            confirm_deletion(f"these {len(found.removed)} objects, which nothing names")
        found = remove_leftovers(opened, key, grace=grace)
    what = "would be removed" if dry_run else "removed"
    size = _size(found.bytes)
    document = {
        "removed" if not dry_run else "would_remove": [one.info.key for one in found.removed],
        "bytes": found.bytes,
        "kept": [one.info.key for one in found.kept],
    }
    lines = [_leftovers(found)] if dry_run and found.removed else []
    lines.append(f"{len(found.removed)} objects ({size}) {what}")
    if found.kept:
        lines.append(
            f"{len(found.kept)} younger ones stay: somebody may be writing them. Take them too: --older-than HOURS"
        )
    out.data(document, "\n".join(lines))


def _open(place: str, store: str | None) -> tuple[Store, str]:
    """Open the store and give the key that is meant; a name without a slash is a finetuning run's."""
    from tuneyard.runners.names import find_run
    from tuneyard.runners.plans import Sources, store_of
    from tuneyard.runners.targets import runner_for

    if "/" in place.strip("/"):
        return store_of(Sources(store=store)), place.strip("/")
    info = find_run(runner_for("local").list("finetune"), place, verbs=("finetune",), words="tuneyard verify")
    return store_of(Sources(store=store), fallback=info.store), str(info.experiment)


def _told(found: Verified) -> str:
    from tuneyard.cli._output import table

    rows = [
        [
            one.part.key,
            one.part.kind,
            str(len(one.part.manifest.files)) if one.part.manifest else "",
            _size(one.part.manifest.size) if one.part.manifest else "",
            one.state,
        ]
        for one in found.parts
    ]
    lines = [table(["KEY", "KIND", "FILES", "SIZE", "STATE"], rows)] if rows else []
    lines += [f"{prefix}: a relaunch {what}" for prefix, what in found.resume.items()]
    if left := found.inventory.leftovers:
        size = _size(sum(one.info.size for one in left))
        lines.append(
            f"{len(left)} objects ({size}) are named by nothing and used by nobody: tuneyard gc {found.inventory.key}"
        )
    lines += [f"damaged: {one.what}" for one in found.damage]
    return "\n".join(lines)


def _leftovers(found: Removal) -> str:
    from tuneyard.cli._output import table

    rows = [[one.info.key, _size(one.info.size), one.why] for one in found.removed]
    return table(["KEY", "SIZE", "WHY"], rows)


def _size(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
