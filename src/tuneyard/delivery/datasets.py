"""Delivers the files that a `dataScript` makes, each with a manifest of its own beside it.

The script is not run again where every file that it makes lies in the store, under manifests that name this very
script. Its text is all that is compared: whoever wants what its sources hold today sets `allowOverwrite`.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any, cast

from tuneyard.delivery.report import Delivered, tell
from tuneyard.delivery.script import produced_files
from tuneyard.delivery.selection import Selection
from tuneyard.delivery.sources import FolderSource
from tuneyard.delivery.tree import Target, deliver_tree, object_sizes
from tuneyard.errors import IntegrityError, InvalidDataError, InvalidValuesError, NotFoundError
from tuneyard.store import Manifest, Store, check_relative, read_manifest

_OWN = ".tuneyard"


def dataset_target(store: Store, key: str) -> Target:
    """Say where a file of data, its manifest and its journal lie.

    Args:
        store: The store.
        key: The file's key.
    """
    folder, _, name = key.rpartition("/")
    return Target(
        store=store,
        prefix=f"{folder}/",
        manifest_key=f"{folder}/{_OWN}/{name}.manifest.json",
        journal_key=f"{folder}/{_OWN}/{name}.delivering.json",
        kind="dataset",
        key=key,
        setting="bucketDataDir",
        only=name,
    )


def delivered_before(store: Store, folder: str, script: str) -> tuple[Delivered, ...] | None:
    """Look for everything that a script makes.

    Args:
        store: The store.
        folder: The `bucketDataDir`, without a `/` at its end.
        script: The script's text.

    Returns:
        The files, where all of them are there under manifests that name this script; else None.
    """
    wanted = script_sha256(script)
    for info in store.list(f"{folder}/{_OWN}/"):
        if not info.key.endswith(".manifest.json"):
            continue
        manifest = _readable(store, info.key)
        outputs = None if manifest is None else _outputs(manifest, wanted)
        if outputs is not None:
            found = [_whole(dataset_target(store, f"{folder}/{name}"), wanted) for name in outputs]
            whole = tuple(delivered for delivered in found if delivered is not None)
            return whole if len(whole) == len(found) else None
    return None


def deliver_datasets(
    store: Store,
    folder: str,
    script: str,
    output: Path,
    *,
    allow_overwrite: bool,
    stop: threading.Event,
) -> tuple[Delivered, ...]:
    """Deliver what a `dataScript` wrote; its files are data, and nothing else about them is looked at.

    Args:
        store: Where to.
        folder: The `bucketDataDir`, without a `/` at its end.
        script: The script's text.
        output: The folder that it wrote into.
        allow_overwrite: Replace files of data that are there and differ.
        stop: As for `deliver_tree`.

    Returns:
        Each file, sorted by key.

    Raises:
        InvalidDataError: What it wrote can't be delivered.
        ConflictError: Another file is there under the same name.
    """
    names = produced_files(output)
    rows = {name: _count_rows(output / name) for name in names if name.endswith(".jsonl")}
    delivered: list[Delivered] = []
    for name in names:
        about: dict[str, Any] = {
            "source": {"kind": "dataScript", "script_sha256": script_sha256(script), "outputs": list(names)}
        }
        if name in rows:
            about["rows"] = rows[name]
        target = dataset_target(store, f"{folder}/{name}")
        file = Path(name)
        source = FolderSource(output / file.parent, only=(file.name,), name=f"{name} of dataScript")
        selection = Selection(files=source.files)
        delivered.append(
            deliver_tree(target, source, selection, about=about, allow_overwrite=allow_overwrite, stop=stop)
        )
    return tuple(sorted(delivered, key=lambda one: one.key))


def script_sha256(script: str) -> str:
    """Hash a script's text."""
    return hashlib.sha256(script.encode()).hexdigest()


def _readable(store: Store, key: str) -> Manifest | None:
    try:
        return read_manifest(store, key)
    except (NotFoundError, IntegrityError):  # a damaged one is told when its own file is delivered
        return None


def _outputs(manifest: Manifest, script: str) -> list[str] | None:
    source: Any = manifest.about.get("source")
    if not isinstance(source, dict):
        return None
    facts = cast("dict[str, Any]", source)
    outputs: Any = facts.get("outputs")
    if facts.get("script_sha256") != script or not isinstance(outputs, list):
        return None
    names = [str(name) for name in cast("list[Any]", outputs)]
    try:
        return [check_relative(name) for name in names]
    except InvalidValuesError:  # a name that leaves the folder is no output of any script
        return None


def _whole(target: Target, script: str) -> Delivered | None:
    manifest = _readable(target.store, target.manifest_key)
    if manifest is None or [target.prefix + entry.path for entry in manifest.files] != [target.key]:
        return None
    sizes = object_sizes(target, [entry.path for entry in manifest.files])
    if _outputs(manifest, script) is None or any(sizes.get(entry.path) != entry.size for entry in manifest.files):
        return None
    return Delivered(
        key=target.key,
        status="unchanged",
        source="dataScript",
        content_sha256=manifest.content_sha256,
        files=len(manifest.files),
        size=manifest.size,
    )


def _count_rows(path: Path) -> int:
    with path.open("rb") as file:
        rows = sum(1 for line in file if line.strip())
    if not rows:
        raise InvalidDataError(
            f"dataScript wrote {path.name} without a single row.", hint="Look at what the script keeps and drops."
        )
    tell(f"dataScript wrote {path.name}: {rows} rows")
    return rows
