"""`tuneyard verify` and `tuneyard gc`: objects in the store, verified byte by byte, and leftovers deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from tuneyard.cli import options as o

if TYPE_CHECKING:
    from tuneyard.inventory import Removal, Verified

Place = Annotated[
    str,
    Argument(
        metavar="KEY|RUN", help="A key (bucket/path) of a run, a model, data or a folder of them, or a run's name."
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="Print what would be deleted, and delete nothing.")]
Hours = Annotated[float, Option("--older-than", metavar="HOURS", min=0, help="The minimum age of an object to delete.")]


def verify(place: Place, store: o.Store = None, json: o.Json = False, quiet: o.Quiet = False) -> None:
    """Read everything under a key and compare it with the manifests. Exit 7 if something is damaged."""
    from tuneyard.cli._client import client
    from tuneyard.cli._output import Output
    from tuneyard.errors import IntegrityError

    out = Output(json, quiet or json)
    found = client("local", store=store).verify(place)
    out.data(found.to_dict(), _report(found))
    if found.damage:
        first, *others = found.damage
        more = f" (and {len(others)} more)" if others else ""
        raise IntegrityError(
            f"{first.what.rstrip('.')}{more}.",
            hint="Restore it from a backup of the bucket, or create it again; damaged objects are never used.",
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
    """Delete the objects under a key that no manifest lists: leftovers of killed runs and deliveries."""
    from tuneyard.cli._client import client
    from tuneyard.cli._confirm import confirm_deletion
    from tuneyard.cli._output import Output

    out = Output(json, quiet)
    chosen = client("local", store=store)
    found = chosen.gc(place, older_than_hours=older_than, dry_run=True)
    if found.removed and not dry_run:
        if not yes:
            out.note(_leftovers(found))
            confirm_deletion(f"these {len(found.removed)} objects, which no manifest lists")
        found = chosen.gc(place, older_than_hours=older_than)
    what = "would be deleted" if dry_run else "deleted"
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
            f"{len(found.kept)} newer objects are kept, since they may be in use. Include them: --older-than HOURS"
        )
    out.data(document, "\n".join(lines))


def _report(found: Verified) -> str:
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
            f"{len(left)} objects ({size}) are in no manifest and unused. Delete them: "
            f"tuneyard gc {found.inventory.key}"
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
